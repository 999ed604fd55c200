"""What hostile callers send, through the whole path: Kafka, the rules, Ansible, and back."""

import asyncio
import itertools
import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.edges.hostile.draws import draws
from tests.edges.hostile.values import KINDS, same
from tests.system.e2e.conftest import World
from tests.system.e2e.test_path import ended

pytestmark = [pytest.mark.eda, pytest.mark.timeout(600)]

CALLS: Final = int(os.environ.get("MCP_BROKER_HOSTILE_CALLS", "36"))
SERVICES: Final = 4
TEXT_MAX: Final = 10_000
ENDED_S: Final = 60 + 3 * CALLS
USERS: Final = ("ada", "𠮷田", "{{ x }}", "a'b\"c\\", "!unsafe [x]", "$(id); `id` \u2028")
KEYS: Final = ("k", "{{ x }}", "'; exit 1; '", "$(id)", "a: [b", "-n", "\\", '"')
NOW: Final = {"Prefer": "respond-async"}


def drawn() -> list[Any]:
    """Values that are taken at the door, of each kind in turn."""
    drawn = itertools.zip_longest(*(draws(kind, CALLS) for kind in KINDS))
    found = [one for turn in drawn for one in turn if one is not None and not one.refused]
    return [one.sent for one in found if one.sent != ""]


def bodies(values: list[Any]) -> list[dict[str, Any]]:
    """Two texts to echo for each object to configure a service with."""
    texts = [one for one in values if isinstance(one, str) and len(one) <= TEXT_MAX]
    others = [one for one in values if not isinstance(one, str)]
    services = [f"hostile{n}" for n in range(SERVICES)]
    made = [service("provision", name) for name in services]
    while len(made) < CALLS:
        n = len(made)
        if n % 3:
            made.append(
                {"tool": "probe", "method": "echo", "args": {"text": texts.pop(0)}}
                | {"ordering_key": KEYS[n % len(KEYS)]}
            )
        else:
            settings = {"v": others.pop(0), "": {"": "🎉"}}
            # One owner's second configuration is a repetition of the first.
            owner = f"owner-{n}"
            made.append(
                service("configure", services[n % SERVICES], owner=owner, settings=settings)
            )
    return made


def service(method: str, name: str, **args: Any) -> dict[str, Any]:
    return {"tool": "service", "method": method, "args": {"name": name, "owner": "owner", **args}}


@pytest.mark.guarantee("hostile:through")
async def test_what_hostile_callers_send_comes_back_as_it_was_sent(world: World) -> None:
    sent = bodies(drawn())
    accepted: list[str] = []
    for n, body in enumerate(sent):
        async with world.http(n % 2, user=USERS[n % len(USERS)]) as http:
            answer = await http.post("/mcp/tools/call", json=body, headers=NOW)
        assert answer.status_code == 202, (answer.text, body)
        accepted.append(answer.json()["correlation_id"])
    async with world.http(0, "olga", "operator", "tools") as http:
        found = await asyncio.gather(*(ended(http, one, ENDED_S) for one in accepted))
        for body, one in zip(sent, found, strict=True):
            shown = ascii(body)[:300]
            assert one["state"] == "succeeded", (one, shown)
            if body["method"] == "echo":
                assert one["result"] == body["args"], shown
            elif body["method"] == "configure":
                assert same(body["args"]["settings"], committed(one["result"])), shown
        last = {"tool": "probe", "method": "echo", "args": {"text": "the next"}}
        assert (await http.post("/mcp/tools/call", json=last)).json()["result"] == last["args"]
    effects = Counter(line.split()[0] for line in world.effects.read_text().splitlines() if line)
    echoes = [one for one, body in zip(accepted, sent, strict=True) if body["method"] == "echo"]
    assert {effects[one] for one in echoes} == {1}, "one effect a command"


def committed(result: Mapping[str, Any]) -> Any:
    """The settings in the commit that a configuration made."""
    place = Path(result["path"]).parent
    argv = ["git", "-C", place, "show", f"{result['head']}:config.json"]
    return json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)

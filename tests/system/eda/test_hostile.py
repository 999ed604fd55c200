"""What callers send is carried whole or left to the claim, and never stops the rules for others."""

import json
from pathlib import Path
from typing import Any

import pytest

from devstack.eda import EmbeddedEda
from tests.support.rulebooks import PLAYBOOKS, rulebook_with
from tests.support.stack import wait_for
from tests.system.eda.conftest import Publish, Send
from tests.system.eda.results_api import ResultsApi
from tests.system.eda.test_through_eda import PLAY_S, ended

pytestmark = [pytest.mark.eda, pytest.mark.usefixtures("eda"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def rulebook(home: Path) -> Path:
    return rulebook_with({"both": PLAYBOOKS / "both.yml"}, home / "rulebook.yml")


def nested(levels: int, leaf: Any = 1) -> Any:
    """An object in an object, so deep."""
    for _ in range(levels):
        leaf = {"a": leaf}
    return leaf


CARRIED: dict[str, Any] = {
    "plain": {"repo": "https://example.org/r.git", "depth": 1, "x": [None, True, 0.1, ""]},
    "below U+FFFF": {"é": "\u2028\u0085\ufeff\uffff\ue000\r\n\t\x1b"},
    "64 bits": [2**63 - 1, -(2**63), 1e300, -0.0],
    "words of YAML and Ansible": {"<<": "~", "null": "!vault x", "=": "$ANSIBLE_VAULT;1.1"},
    "paths": {"a/b": "&a *a", "/": 1, "*": 2, "[a]": 3, "a.b": 4},
    "30 levels": nested(30),
    "names of Ansible's": {"ansible_connection": "ssh", "__ansible_unsafe": "x", "hosts": "all"},
}
BY_CLAIM: dict[str, Any] = {
    "above U+FFFF": {"text": "🎉"},
    "a key above U+FFFF": {"𠮷": 1},
    "an empty key": {"settings": {"packages": {"": {}}}},
    "keys of Ansible's own": {"_ansible_no_log": True, "list": [{"_ansible_x": {"y": 1}}]},
    "a template": {"{{ x }}": "{{ lookup('pipe', 'id') }}"},
    "250 levels": nested(248),
    "many values": {f"k{n}": n for n in range(20_000)},
    "much text": "x" * 250_000,
    "above 63 bits": 2**64 - 1,
}
# Of which a play has all in `args_json`, and not in `args`.
STRIPPED = {"keys of Ansible's own", "250 levels"}
# Which the app refuses: they are of another writer of the topic.
FORGED: dict[str, str] = {
    "NUL": r'{"a\u0000": "b\u0000"}',
    "half a pair": r'{"\udc00": "\ud800"}',
    "above 64 bits": f'{{"v": [{2**70}, -{2**70}]}}',
    "5,000 digits": f'{{"v": {"9" * 5000}}}',
    "no number": '{"v": [NaN, Infinity, 1e400]}',
    **{f"{levels} levels": '{"a":' * levels + "1" + "}" * levels for levels in (300, 600, 900)},
}


@pytest.mark.guarantee("eda:hostile")
async def test_arguments_arrive_as_they_were_sent_by_the_event_or_by_the_claim(
    api: ResultsApi, send: Send
) -> None:
    carried = {label: api.command("both", "x", {"v": value}) for label, value in CARRIED.items()}
    others = {label: api.command("both", "x", {"v": value}) for label, value in BY_CLAIM.items()}
    await send(*carried.values(), *others.values())
    for label, command in (carried | others).items():
        assert (await ended(api, command))[-1] == "result", label
        came = api.of(command)[-1].body["result"]
        assert json.loads(came["json"]) == command["args"], label
        if label not in STRIPPED:
            assert came["args"] == command["args"], label
        assert came["event"] == (command if label in carried else without(command, "args")), label


@pytest.mark.guarantee("eda:hostile")
async def test_no_field_of_the_envelope_stops_a_command(api: ResultsApi, send: Send) -> None:
    hostile = {
        "user_id": "𠮷田",
        "saga_step": "a\x00b",
        "idempotency_key": "{{ x }}",
        "compensation": {"tool": "t", "method": "m", "args": {"": 1}},
        "labels": {"": "x"},
    }
    command = api.command("both", "x", {"v": 1}) | hostile
    await send(command)
    assert (await ended(api, command))[-1] == "result"
    came = api.of(command)[-1].body["result"]
    assert came["event"] == without(command, *hostile)


@pytest.mark.guarantee("eda:hostile")
async def test_what_only_another_writer_could_send_stops_nothing(
    api: ResultsApi, send: Send, publish: Publish, topic: str, eda: EmbeddedEda
) -> None:
    commands = {label: api.command("both", "x", {"v": 1}) for label in FORGED}
    texts = [
        json.dumps(command | {"args": "ARGS"}).replace('"ARGS"', FORGED[label]).encode()
        for label, command in commands.items()
    ]
    deep = [b'{"a":' * levels + b"1" + b"}" * levels for levels in (600, 900, 100_000)]
    typed = [b'{"tool": {"": 1}}', b'{"": 1}', '{"🎉": 1, "tool": "t"}'.encode(), b"[" * 900]
    await send(*texts, *deep, *typed, {"tool": "t", "_ansible_x": 1, "left_out": "x"})
    headed = api.command("both", "x", {"v": 2})
    await publish(
        topic, headed, headers={"": b"x", "a\0": b"y", "user": "🎉".encode(), "n": b"\xff"}
    )
    other = api.command("both", "x", {"v": 3}, tenant_id="other")
    await send(other)
    for label, command in [*commands.items(), ("headers", headed), ("the next", other)]:
        assert (await ended(api, command))[-1] == "result", label
        came = api.of(command)[-1].body["result"]
        body = without(command, "args") if label in commands else command
        assert came["event"] == body, label
        assert came["args"] == api.args[command["correlation_id"]], label

    async def told() -> bool:
        return eda.process.log.read_text().count("rejected.record") >= len(deep) + len(typed) + 1

    await wait_for(told, PLAY_S)


def without(command: dict[str, Any], *names: str) -> dict[str, Any]:
    """The body of an event that these fields were left out of."""
    kept = {name: value for name, value in command.items() if name not in names}
    return kept | {"left_out": sorted(names)}

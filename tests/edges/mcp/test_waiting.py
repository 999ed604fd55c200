"""What a client hears while it waits, and what is left when it stops waiting."""

import asyncio
import itertools
import random
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from app.contract import KEY_META
from app.edges.calls import submit
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from devstack.stack import Dsns
from tests.edges.mcp.adapter import Work, serving
from tests.edges.mcp.conftest import ERAS, Front, offer
from tests.edges.mcp.wire import call
from tests.support.calls import ADA, fetch
from tests.support.stack import wait_for

CALLS = 100
ROUNDS_MAX = 30


class Heard:
    """A progress callback that keeps what it hears."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.messages: list[str | None] = []

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        assert total == 100
        self.values.append(progress)
        self.messages.append(message)


def increasing(values: list[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values)) and max(values) < 100


@pytest.mark.parametrize("mode", ERAS)
async def test_silence_is_filled_by_heartbeats_that_increase_also_after_a_hundred_percent(
    front: Front, mode: str
) -> None:
    heard = Heard()
    tenant = f"quiet-{len(mode)}"
    await front.allow(tenant, inline_wait_s=3)  # ten heartbeats, on an idle machine
    async with front.client(mode=mode, tenant=tenant) as client:
        calling = asyncio.create_task(
            client.call_tool("probe_echo", {"text": f"quiet {mode}"}, progress_callback=heard)
        )
        one = await front.newest(tenant=tenant)
        await front.say(one, "/claim", attempt=1, adapter="run")
        await front.say(one, "/progress", stage="done, nearly", percent=100)
        accepted = await calling
        assert accepted.structured_content["status"] == "accepted"
        said = len(heard.values)
        await front.say(one, "", status="ok", result={"text": "x"})
        await client.list_tools()
    assert said >= 3
    assert increasing(heard.values)
    assert len(heard.values) == said, "nothing is said after the answer"
    assert heard.messages[-1] == "done, nearly"


async def test_many_words_of_an_adapter_are_few_notifications(front: Front) -> None:
    heard = Heard()
    async with front.client() as client:
        calling = asyncio.create_task(
            client.call_tool("probe_echo", {"text": "chatty"}, progress_callback=heard)
        )
        one = await front.newest()
        await front.say(one, "/claim", attempt=1, adapter="run")
        for percent in range(20):
            await front.say(one, "/progress", stage=f"{percent}", percent=percent)
        await front.say(one, "", status="ok", result={"text": "chatty"})
        await calling
    assert increasing(heard.values)
    assert len(heard.values) <= 6


@pytest.mark.parametrize(
    ("tool", "state"), [("policy_tied", "cancelled"), ("probe_echo", "queued")]
)
async def test_a_dropped_connection_cancels_only_where_the_tools_policy_says_so(
    front: Front, tool: str, state: str
) -> None:
    args = {"text": "dropped"} if tool == "probe_echo" else {}
    async with front.http("ada") as http:
        calling = asyncio.create_task(call(http, tool, args))
        one = await front.newest()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        looked = {"command_id": one, "wait_s": 1}
        status = (await call(http, "command_status", looked))["result"]["structuredContent"]
        assert status["state"] == state
        await call(http, "command_cancel", {"command_id": one})


@pytest.mark.guarantee("mcp:wait")
@pytest.mark.parametrize(
    ("tool", "tenant_s", "call_s", "waits_s"),
    [
        ("git", None, None, 5),  # the deployment's
        ("git", 3.5, None, 3.5),  # the tenant's goes before it
        ("policy", 3.5, None, 3600),  # and the tool's before the tenant's
        ("git", 3.5, 2, 2),  # a call makes each of them shorter
        ("policy", 3.5, 0, 0),
        ("git", 3.5, 4, 3.5),  # and none longer
    ],
)
async def test_tool_tenant_and_deployment_bound_the_wait_and_a_call_shortens_it(
    broker: Parts,
    database: Dsns,
    tool: str,
    tenant_s: float | None,
    call_s: float | None,
    waits_s: float,
) -> None:
    await offer(database.owner, Path(__file__).with_name("tools.yml"))
    await fetch(
        database.owner, "UPDATE tenants SET inline_wait_s = $1 WHERE tenant_id = 'demo'", tenant_s
    )
    request = {
        "git": CallRequest(tool="git", method="delete", args={"dest": "x"}),
        "policy": CallRequest(tool="policy", method="patient", args={}),
    }[tool]
    accepted = await submit(broker, ADA, request, wait_s=call_s)
    assert accepted.wait_s == waits_s


class Forgetful:
    """A client that is killed in each of its calls and knows nothing but its keys."""

    def __init__(self, front: Front, http: httpx2.AsyncClient) -> None:
        self._front = front
        self._http = http
        self._chance = random.Random(4)

    async def call(self, key: str) -> bool:
        """Call and be killed; whether the answer came before that."""
        try:
            async with asyncio.timeout(self._chance.uniform(0, 0.04)):
                await call(self._http, "probe_echo", {"text": key}, meta={KEY_META: key})
        except (TimeoutError, httpx2.HTTPError):
            return False
        return True

    async def listed(self) -> dict[str, str]:
        """Every command of its own, by its key, with its state."""
        found: list[dict[str, str]] = []
        before: dict[str, str] = {}
        while True:
            page = await call(self._http, "command_list", {"limit": 100, **before})
            body = page["result"]["structuredContent"]
            found += body["commands"]
            if body["before"] is None:
                break
            before = {"before": body["before"]}
        states = {one["idempotency_key"]: one["state"] for one in found}
        assert len(states) == len(found), "a call stands there once"
        return states


async def echo(work: Work) -> dict[str, str]:
    return {"text": work.args["text"]}


@pytest.mark.guarantee("mcp:found-again")
async def test_a_client_killed_at_random_moments_finds_each_outcome_once_by_command_list(
    front: Front,
) -> None:
    """What the list does not show was never accepted, and is called again."""
    user = f"killed-{uuid4()}"
    missing = {f"key-{n}" for n in range(CALLS)}
    unanswered = 0
    async with (
        front.http(user) as http,
        front.http("eda", "results:write", tenant="adapters") as adapter,
        serving(owner_dsn=front.dsns.owner, http=adapter, tools={"probe/echo": echo}),
    ):
        client = Forgetful(front, http)
        for _ in range(ROUNDS_MAX):
            keys = sorted(missing)
            for start in range(0, len(keys), 10):
                answers = await asyncio.gather(*map(client.call, keys[start : start + 10]))
                unanswered += answers.count(False)
            missing -= (await client.listed()).keys()
            if not missing:
                break
        assert not missing
        assert unanswered > CALLS / 2, "the client was killed"

        async def all_ended() -> bool:
            return set((await client.listed()).values()) == {"succeeded"}

        await wait_for(all_ended)
        assert len(await client.listed()) == CALLS
    query = "SELECT count(*), count(DISTINCT args->>'text') FROM commands WHERE user_id = $1"
    assert tuple((await fetch(front.dsns.owner, query, user))[0]) == (CALLS, CALLS)

"""Kind `mcp` against servers of the official SDK: both eras of HTTP, and stdio."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from adapters.contract import Failure, Outcome, Result
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters, check
from adapters.mcp.digests import digest
from adapters.targets import Limits, Target
from tests.adapters.executor import Heard, call_of
from tests.adapters.mcp.conftest import ERAS, Place
from tests.adapters.mcp.servant import BLOCKS
from tests.support.stack import wait_for

pytestmark = pytest.mark.thorough

ECHO: dict[str, Any] = {
    "name": "echo",
    "description": "Says what it was given.",
    "inputSchema": {"type": "object"},
}
HTTP_ONLY = pytest.mark.parametrize("way", ERAS, indirect=True)


@pytest.fixture
async def adapters(way: Place) -> AsyncIterator[Adapters]:
    """Closed before the server."""
    made = Adapters(credentials=CredentialSources({"TOKEN": "t0ken-t0ken"}))
    yield made
    await made.close()


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def done(outcome: Outcome) -> Result:
    assert isinstance(outcome, Result), outcome
    return outcome


async def test_arguments_and_structured_content_pass_through(
    adapters: Adapters, way: Place
) -> None:
    args: dict[str, Any] = {"a": [1, None, {"ü": "🦜"}], "none": None, "deep": {"n": None}}
    mapping = {"tool": "echo"}
    assert not check(way.target(), mapping)
    call = call_of(way.target(), args=args, mapping=mapping, traceparent="00-a-b-01")
    result = done(await adapters.run(call, Heard()))
    assert result.value == args
    templated = {"tool": "echo", "args": {"x": "{a}", "y": "is {b.c}", "z": "{gone}"}}
    call = call_of(way.target(), args={"a": [1], "b": {"c": 2}}, mapping=templated)
    assert done(await adapters.run(call, Heard())).value == {"x": [1], "y": "is 2"}
    if way.servant is not None:
        meta = way.servant.seen[0]["meta"]
        assert meta["dev.mcpbroker/idempotency_key"] == "key-1"
        assert meta["traceparent"] == "00-a-b-01"
        assert way.servant.seen[0]["headers"]["traceparent"] == "00-a-b-01"


async def test_every_block_of_content_passes_through(adapters: Adapters, way: Place) -> None:
    result = done(await adapters.run(call_of(way.target(), mapping={"tool": "blocks"}), Heard()))
    assert result.content == BLOCKS
    assert result.value == {"n": 5}


async def test_progress_passes_through(adapters: Adapters, way: Place) -> None:
    heard = Heard()
    call = call_of(way.target(), args={"times": 3}, mapping={"tool": "slow"})
    done(await adapters.run(call, heard))
    assert heard.said[-1] == (3, 3, "step 3")


async def test_a_flood_of_progress_holds_up_nothing(adapters: Adapters, way: Place) -> None:
    heard = Heard()
    flood = call_of(way.target(), args={"times": 3000}, mapping={"tool": "slow"})
    other = call_of(way.target(), args={"a": 1}, mapping={"tool": "echo"})
    calls = asyncio.gather(adapters.run(flood, heard), adapters.run(other, Heard()))
    for outcome in await asyncio.wait_for(calls, 30):
        done(outcome)
    assert heard.said[-1] == (3000, 3000, "step 3000")
    assert heard.said == sorted(heard.said, key=lambda word: word[0] or 0)


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize(
    ("tool", "args", "code", "unknown"),
    [
        ("fail", {}, "target_failed", False),
        ("refuse", {"code": -32602}, "target_refused", False),
        ("refuse", {"code": -32603}, "target_failed", True),
        ("refuse", {"code": 42}, "target_refused", False),
    ],
)
async def test_errors_become_failures(
    *, adapters: Adapters, way: Place, tool: str, args: dict[str, Any], code: str, unknown: bool
) -> None:
    call = call_of(way.target(), args=args, mapping={"tool": tool})
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.code, outcome.outcome_unknown) == (code, unknown)
    if tool == "fail":
        assert outcome.message == "It broke."
        assert outcome.details["content"][0]["text"] == "It broke."
    else:
        assert outcome.details["mcp"]["code"] == args["code"]


@pytest.mark.guarantee("adapters:ended")
async def test_cancel_reaches_the_server(adapters: Adapters, way: Place) -> None:
    heard = Heard()
    call = call_of(way.target(), args={"seconds": 60, "times": 1}, mapping={"tool": "slow"})
    running = asyncio.create_task(adapters.run(call, heard))
    await heard.until_said()
    heard.cancel()
    outcome = failed(await asyncio.wait_for(running, 10))
    assert (outcome.code, outcome.outcome_unknown) == ("cancelled", True)
    if way.servant is not None:
        await asyncio.wait_for(way.servant.cancelled.wait(), 5)
    again = call_of(way.target(), args={"a": 1}, mapping={"tool": "echo"})
    assert done(await adapters.run(again, Heard())).value == {"a": 1}


async def test_a_deadline_ends_the_call(adapters: Adapters, way: Place) -> None:
    done(await adapters.run(call_of(way.target(), mapping={"tool": "echo"}), Heard()))
    call = call_of(way.target(), args={"seconds": 60}, mapping={"tool": "slow"}, deadline_s=0.3)
    outcome = failed(await asyncio.wait_for(adapters.run(call, Heard()), 10))
    assert outcome.code == "deadline_exceeded"


async def test_one_session_is_kept_and_calls_run_at_once(adapters: Adapters, way: Place) -> None:
    calls = [
        adapters.run(call_of(way.target(), args={"n": n}, mapping={"tool": "echo"}), Heard())
        for n in range(30)
    ]
    results = [done(one).value for one in await asyncio.gather(*calls)]
    assert results == [{"n": n} for n in range(30)]
    assert adapters.kept == 1
    if way.requests:
        assert way.requests.count("DELETE") == 0


async def test_an_answer_that_is_huge_is_told_and_the_session_lives(
    adapters: Adapters, way: Place
) -> None:
    target = way.target(limits=Limits(result_bytes_max=50_000))
    call = call_of(target, args={"bytes": 3_000_000}, mapping={"tool": "huge"})
    outcome = failed(await asyncio.wait_for(adapters.run(call, Heard()), 20))
    assert outcome.code in ("result_too_large", "target_lost")
    call = call_of(target, args={"a": 1}, mapping={"tool": "echo"})
    assert done(await asyncio.wait_for(adapters.run(call, Heard()), 20)).value == {"a": 1}


@pytest.mark.guarantee("adapters:reviewed")
async def test_a_tool_that_is_not_what_was_reviewed_is_not_called(
    adapters: Adapters, way: Place
) -> None:
    told = ECHO
    mapping = {"tool": "echo", "digest": digest(told)}
    assert not check(way.target(), mapping)
    done(await adapters.run(call_of(way.target(), args={"a": 1}, mapping=mapping), Heard()))
    for changed in (
        told | {"description": "Says it, and sends it away."},
        told | {"name": "other"},
    ):
        outcome = failed(
            await adapters.run(
                call_of(way.target(), mapping={"tool": "echo", "digest": digest(changed)}), Heard()
            )
        )
        assert (outcome.code, outcome.retryable) == ("target_changed", False)
        assert outcome.details["reviewed"] == digest(changed)
    gone = {"tool": "gone", "digest": digest(told)}
    outcome = failed(await adapters.run(call_of(way.target(), mapping=gone), Heard()))
    assert (outcome.code, outcome.details["found"]) == ("target_changed", None)
    if way.servant is not None:
        assert len(way.servant.seen) == 1, "only the first was called"


@pytest.mark.guarantee("adapters:reviewed")
async def test_a_change_that_the_server_tells_of_is_noticed_at_once(
    adapters: Adapters, way: Place
) -> None:
    """Not a minute later, when its tools would be listed anew."""
    before, after = ({**ECHO, "description": words} for words in ("Says what it was given.", "!"))

    async def outcome_of(mapping: dict[str, Any], **args: Any) -> Outcome:
        return await adapters.run(call_of(way.target(), args=args, mapping=mapping), Heard())

    reviewed = {"tool": "echo", "digest": digest(before)}
    done(await outcome_of(reviewed))
    done(await outcome_of({"tool": "change"}, described="!"))

    async def noticed() -> bool:
        outcome = await outcome_of(reviewed)
        return isinstance(outcome, Failure) and outcome.code == "target_changed"

    await wait_for(noticed, 5)
    done(await outcome_of({"tool": "echo", "digest": digest(after)}))


@HTTP_ONLY
async def test_a_session_that_the_server_forgot_is_opened_anew(
    adapters: Adapters, way: Place
) -> None:
    call = call_of(way.target(), args={"a": 1}, mapping={"tool": "echo"}, idempotent=False)
    done(await adapters.run(call, Heard()))
    assert way.servant is not None
    manager = way.servant.server.session_manager
    for one in list(manager._server_instances.values()):  # pyright: ignore[reportPrivateUsage]
        await one.terminate()
    manager._server_instances.clear()  # pyright: ignore[reportPrivateUsage]
    assert done(await adapters.run(call, Heard())).value == {"a": 1}


@pytest.mark.parametrize("way", ["2026-07-28"], indirect=True)
@pytest.mark.parametrize(
    ("end", "code", "unknown"),
    [
        ("completed", None, False),
        ("failed", "target_failed", True),
        ("cancelled", "target_failed", True),
        ("gone", "target_lost", True),
        ("input_required", "target_refused", False),
        ("odd", "target_failed", True),
    ],
)
async def test_a_task_is_followed_to_its_end(
    *, adapters: Adapters, way: Place, end: str, code: str | None, unknown: bool
) -> None:
    heard = Heard()
    call = call_of(way.target(), args={"end": end}, mapping={"tool": "task"})
    outcome = await asyncio.wait_for(adapters.run(call, heard), 20)
    if code is None:
        assert done(outcome) == Result(value={"made": True}, content=BLOCKS[:1])
        assert (None, None, "asked 2 times") in heard.said
    else:
        assert (failed(outcome).code, failed(outcome).outcome_unknown) == (code, unknown)


@pytest.mark.guarantee("adapters:ended")
@pytest.mark.parametrize("way", ["2026-07-28"], indirect=True)
async def test_cancel_reaches_a_task(adapters: Adapters, way: Place) -> None:
    assert way.servant is not None
    heard = Heard()
    call = call_of(way.target(), args={"end": "never"}, mapping={"tool": "task"})
    running = asyncio.create_task(adapters.run(call, heard))
    await asyncio.wait_for(way.servant.begun.wait(), 5)
    heard.cancel()
    assert failed(await asyncio.wait_for(running, 10)).code == "cancelled"
    assert way.servant.cancelled.is_set()


@pytest.mark.parametrize("way", ["2026-07-28"], indirect=True)
async def test_what_a_server_asks_its_caller_is_not_answered(
    adapters: Adapters, way: Place
) -> None:
    outcome = failed(await adapters.run(call_of(way.target(), mapping={"tool": "ask"}), Heard()))
    assert (outcome.code, outcome.retryable) == ("target_refused", False)


@pytest.mark.guarantee("adapters:masked")
@HTTP_ONLY
async def test_credentials_go_along_and_do_not_come_back(adapters: Adapters, way: Place) -> None:
    target = way.target(credential={"type": "bearer", "token": "env:TOKEN"})
    result = done(await adapters.run(call_of(target, mapping={"tool": "echo"}), Heard()))
    assert way.servant is not None
    assert way.servant.seen[0]["headers"]["authorization"] == "Bearer t0ken-t0ken"
    assert result.content is not None
    assert result.content[0]["text"] == "Bearer [redacted]"
    missing = way.target(credential={"type": "bearer", "token": "env:NONE"})
    outcome = failed(await adapters.run(call_of(missing, mapping={"tool": "echo"}), Heard()))
    assert (outcome.code, outcome.retryable) == ("credential_unavailable", True)


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize("way", ["stdio"], indirect=True)
async def test_a_server_that_dies_in_the_middle_is_started_again(
    adapters: Adapters, way: Place
) -> None:
    for idempotent in (True, False):
        call = call_of(way.target(), mapping={"tool": "die"}, idempotent=idempotent)
        outcome = failed(await asyncio.wait_for(adapters.run(call, Heard()), 20))
        assert outcome.code == "target_lost"
        assert (outcome.retryable, outcome.outcome_unknown) == (idempotent, not idempotent)
    call = call_of(way.target(), args={"a": 1}, mapping={"tool": "echo"})
    assert done(await adapters.run(call, Heard())).value == {"a": 1}


@pytest.mark.parametrize("way", ["stdio"], indirect=True)
async def test_a_server_that_does_not_start_was_not_called(adapters: Adapters, way: Place) -> None:
    broken = Target(
        name="broken",
        kind="mcp",
        address=f"stdio:{sys.executable}",
        options={"args": ["-c", "import sys; sys.exit('no such database')"]},
        limits=Limits(connect_s=5),
    )
    outcome = failed(await adapters.run(call_of(broken, mapping={"tool": "echo"}), Heard()))
    assert (outcome.code, outcome.retryable) == ("target_unavailable", True)
    assert outcome.details["stderr"] == "no such database"
    silent = Target(
        name="silent",
        kind="mcp",
        address=f"stdio:{sys.executable}",
        options={"args": ["-c", "import time; time.sleep(60)"]},
        limits=Limits(connect_s=0.5),
    )
    outcome = failed(
        await asyncio.wait_for(adapters.run(call_of(silent, mapping={"tool": "echo"}), Heard()), 20)
    )
    assert (outcome.code, outcome.retryable) == ("target_unavailable", True)


@HTTP_ONLY
async def test_nobody_there_means_that_nothing_was_done(adapters: Adapters, way: Place) -> None:
    held = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    held.close()
    await held.wait_closed()
    options = way.target().options
    target = Target(name="n", kind="mcp", address=f"http://127.0.0.1:{port}/mcp", options=options)
    outcome = failed(await adapters.run(call_of(target, mapping={"tool": "echo"}), Heard()))
    assert (outcome.code, outcome.retryable) == ("target_unavailable", True)


def test_what_a_mapping_and_a_target_may_not_say_is_told() -> None:
    target = Target(name="t", kind="mcp", address="https://mcp.example/mcp")
    for wrong in (
        {},
        {"tool": "t", "colour": 1},
        {"tool": "t", "digest": "sha256:1"},
        {"tool": "t", "args": []},
        {"tool": "t", "args": {"a": "{"}},
        {"tool": "t", "on_tool_error": "done"},
    ):
        assert len(check(target, wrong)) == 1, wrong
    for field_ in (
        {"address": "ftp://x"},
        {"address": "stdio:ls"},
        {"address": "stdio:/bin/ls", "options": {"args": "x"}},
        {"address": "stdio:/bin/ls", "options": {"odd": 1}},
        {"options": {"era": "2024"}},
        {"options": {"args": []}},
    ):
        given = {"name": "t", "kind": "mcp", "address": "https://x"} | field_
        assert len(check(Target.read(given), {"tool": "t"})) == 1, field_


def test_a_digest_is_of_what_was_reviewed_only() -> None:
    told = {"name": "a", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    same = [
        told | {"outputSchema": None},
        {"inputSchema": {"type": "object"}, "name": "a", "annotations": {"readOnlyHint": True}},
        told | {"annotations": {"readOnlyHint": True, "title": None}},
        told | {"_meta": {"x": 1}, "icons": []},
    ]
    other = [
        told | {"description": "x"},
        told | {"inputSchema": {}},
        told | {"annotations": {"readOnlyHint": False}},
        told | {"outputSchema": {}},
    ]
    assert {digest(one) for one in same} == {digest(told)}
    assert len({digest(one) for one in (told, *other)}) == 5

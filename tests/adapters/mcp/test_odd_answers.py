"""Kind `mcp` against a server whose answers are of other types than the protocol's."""

import asyncio
from typing import Any

import pytest

from adapters.contract import Failure, Result
from adapters.kinds import Adapters
from adapters.targets import Target
from tests.adapters.executor import Heard, call_of
from tests.adapters.mcp.servant import Servant
from tests.support.stack import listening

ODD: dict[str, Any] = {
    "a task without a name": {"status": "working"},
    "a task of another type": {"taskId": ["a"], "status": "working"},
    "a task without a state": {"taskId": "a"},
    "a task whose result is a text": {"taskId": "a", "status": "completed", "result": "x"},
    "a task whose blocks are none": {
        "taskId": "a",
        "status": "completed",
        "result": {"content": [5, None]},
    },
    "a task whose error has no words": {
        "taskId": "a",
        "status": "completed",
        "result": {"content": [{"type": "text"}], "isError": True},
    },
}


class Odd(Servant):
    """Makes a task of every call of one tool, as it is told."""

    async def do_misfit(self, _ctx: Any, args: dict[str, Any]) -> Any:
        return {"resultType": "task", **args["as"]}


@pytest.mark.parametrize("odd", ODD)
async def test_an_answer_of_wrong_types_is_the_servers_failure_and_fails_alone(odd: str) -> None:
    adapters, app = Adapters(), Odd().server.streamable_http_app()
    async with listening(app, lifespan="auto") as port:
        address = f"http://127.0.0.1:{port}/mcp"
        target = Target(name="odd", kind="mcp", address=address, options={"era": "2026-07-28"})
        call = call_of(target, args={"as": ODD[odd]}, mapping={"tool": "misfit"}, deadline_s=5)
        outcome = await asyncio.wait_for(adapters.run(call, Heard()), 10)
        again = call_of(target, args={"a": 1}, mapping={"tool": "echo"})
        after = await asyncio.wait_for(adapters.run(again, Heard()), 10)
        await adapters.close()
    assert isinstance(outcome, Failure), outcome
    assert outcome.code in {"result_unreadable", "target_failed"}, outcome
    assert isinstance(after, Result)
    assert after.value == {"a": 1}

"""The HTTP API keeps its own OpenAPI document, whatever is sent: no server error, no answer that
the document does not name. The examples are schemathesis's, from a fixed seed.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any
from uuid import UUID

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from app.config import Settings
from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import accept, claim, echo, finish
from tests.support.served import ADAPTER, OPERATOR, served

pytestmark = pytest.mark.thorough

EXAMPLES = 6
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
NEVER_ENDS = "/commands/{command_id}/events"
IDS = ("command_id", "correlation_id")


@pytest.fixture
def settings(database: Dsns, issuer: DevIssuer) -> Settings:
    return settings_of(database.app, issuer, inline_wait_s=0.01, heartbeat_s=0.1)


async def commands_of(broker: Parts) -> list[UUID]:
    """One that has ended, one that runs, one that waits, one that is dead."""
    ids = [(await accept(broker, echo(f"n{n}"))).written.id for n in range(4)]
    await finish(broker, ids[0], result={"text": "x"})
    await claim(broker, ids[1])
    for attempt in (1, 2, 3):
        await finish(broker, ids[3], attempt=attempt, error={"code": "boom"})
    return ids


def as_echo(case: schemathesis.Case) -> schemathesis.Case:
    """The same call, of a tool that there is."""
    if isinstance(case.body, dict):
        case.body |= {"tool": "probe", "method": "echo", "args": {"text": "x"}}
    return case


@pytest.mark.guarantee("http:contract")
async def test_no_example_meets_a_server_error_or_an_answer_that_is_not_in_the_document(
    broker: Parts, issuer: DevIssuer
) -> None:
    ids = await commands_of(broker)
    loop = asyncio.get_running_loop()
    answers: dict[str, set[int]] = {}
    async with (
        served(broker, issuer) as app,
        app.client("ada", *OPERATOR, *ADAPTER) as http,
    ):

        def ask(case: schemathesis.Case) -> None:
            sent = asyncio.run_coroutine_threadsafe(send(http, case), loop)
            answer = sent.result(timeout=10)
            answers.setdefault(f"{case.method} {case.path}", set()).add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        for operation in schemathesis.openapi.from_dict(app.api.openapi()).get_all_operations():
            found: Any = operation.ok()  # pyright: ignore[reportAttributeAccessIssue]
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                await asyncio.to_thread(run, ask, strategy(found, mode))
                named = ids[:1] if found.path == NEVER_ENDS else (ids[0], ids[3])
                by_id = [name for name in IDS if f"{{{name}}}" in found.path]
                for one, name in product(named, by_id):
                    given_id = {name: str(one)}
                    await asyncio.to_thread(
                        run, ask, strategy(found, mode, path_parameters=given_id)
                    )
            if found.path == "/mcp/tools/call":
                await asyncio.to_thread(
                    run, ask, strategy(found, GenerationMode.POSITIVE).map(as_echo)
                )
    seen = set().union(*answers.values())
    assert {200, 202, 400, 404, 409} <= seen, f"the examples reach little: {answers}"
    assert len(answers) > 15


def strategy(operation: Any, mode: GenerationMode, **fixed: Any) -> Any:
    """The operation's examples: of its schemas, or breaking them."""
    return operation.as_strategy(generation_mode=mode, **fixed)


def run(ask: Callable[[schemathesis.Case], None], cases: Any) -> None:
    """Draw the examples, in a thread: Hypothesis is not asynchronous."""

    @examples(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck.__members__.values()],
    )
    @given(case=cases)
    def each(case: schemathesis.Case) -> None:
        ask(case)

    # An operation may have nothing that a negative example could break.
    with suppress(Unsatisfiable):
        each()


async def send(http: httpx2.AsyncClient, case: schemathesis.Case) -> httpx2.Response:
    """Send an example as this caller."""
    parts = case.as_transport_kwargs(base_url="http://testserver")
    headers = [
        (name, str(value).encode("latin-1", "replace"))
        for name, value in parts.get("headers", {}).items()
        if name.lower() != "authorization"
    ]
    content: dict[str, Any] = {"json": parts["json"]} if "json" in parts else {}
    if parts.get("data") is not None:
        content = {"content": parts["data"]}
    return await http.request(
        parts["method"], parts["url"], params=parts.get("params"), headers=headers, **content
    )

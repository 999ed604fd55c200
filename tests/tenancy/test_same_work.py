"""Time tells nobody whose an id is: the same statements answer for a foreign one and for none."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands import results
from app.edges.commands import cancel, find
from app.edges.parts import Parts
from app.errors import NotFoundError
from app.identity import Identity
from tests.support.calls import ADA, BOB, EVE, accept, echo

BOUND = Identity(tenant_id="x", user_id="x", client_id="x", tenants=frozenset({"other"}))
Ask = Callable[[Parts, UUID], Awaitable[object]]


@contextmanager
def statements(engine: AsyncEngine) -> Generator[list[str]]:
    """What the block has sent to the server, in order, transactions too."""
    sent: list[str] = []

    def executed(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    def over(_conn: Any) -> None:
        sent.append("end")

    listened: list[tuple[str, Callable[..., None]]] = [
        ("before_cursor_execute", executed),
        ("commit", over),
        ("rollback", over),
    ]
    for name, listener in listened:
        event.listen(engine.sync_engine, name, listener)
    try:
        yield sent
    finally:
        for name, listener in listened:
            event.remove(engine.sync_engine, name, listener)


@pytest.mark.guarantee("tenancy:not-guessable")
@pytest.mark.parametrize(
    "ask",
    [
        lambda broker, one: find(broker, EVE, one),
        lambda broker, one: find(broker, BOB, one),
        lambda broker, one: cancel(broker, EVE, one, reason="x"),
        lambda broker, one: results.owner(broker.database.engine, BOUND, one),
    ],
    ids=["another tenant", "another user", "a cancel", "an adapter of another tenant"],
)
async def test_a_foreign_id_costs_the_same_statements_as_one_that_never_was(
    broker: Parts, ask: Ask
) -> None:
    foreign = (await accept(broker, echo(), ADA)).written.id
    sent: list[list[str]] = []
    for one in (foreign, uuid4()):
        with statements(broker.database.engine) as seen, pytest.raises(NotFoundError):
            await ask(broker, one)
        sent.append(seen)
    assert sent[0] == sent[1]
    assert len(sent[0]) > 1, "nothing was looked at"

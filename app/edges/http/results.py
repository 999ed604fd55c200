"""The results API: what adapters POST. Every report is idempotent and fenced.

`POST /results/batch` takes up to 500 reports, each answered by itself with its own status; the
single routes take one. Both are plain ASGI (`fast_call.py`), as every call has three of them, and
go the same way: into a batch of what arrives together (`app.commands.reports`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app import metrics
from app.commands.report import Answer, Kind, Report
from app.edges.auth.scopes import RESULTS, need
from app.edges.failures import invalid, members, placed, translated
from app.edges.http.replies import identity_of, reply
from app.edges.http.report_bodies import (
    Body,
    ClaimBody,
    Item,
    ProgressBody,
    RejectBody,
    ResultBody,
    RunBody,
)
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.errors import BrokerError, NotBoundError
from app.identity import Identity
from app.postgres.engine import AWAY

ITEMS_MAX: Final = 500
PATH: Final = "/results/"
BATCH_PATH: Final = "/results/batch"


class BatchBody(BaseModel):
    """Reports that are answered one by one, in order; a bad one fails alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: list[Item] = Field(min_length=1, max_length=ITEMS_MAX)


class BatchShape(BaseModel):
    """A batch whose items are read one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: list[Any] = Field(min_length=1, max_length=ITEMS_MAX)


BODIES: Final[Mapping[str, TypeAdapter[Body]]] = {
    "claim": TypeAdapter(ClaimBody),
    "progress": TypeAdapter(ProgressBody),
    "": TypeAdapter(ResultBody),
    "reject": TypeAdapter(RejectBody),
    "run": TypeAdapter(RunBody),
}
"""By what follows the command in the path."""
ITEM: Final[TypeAdapter[Item]] = TypeAdapter(Item)
SHAPE: Final = TypeAdapter(BatchShape)


def router(broker: Parts) -> APIRouter:
    """The routes of adapters."""
    made = APIRouter(prefix="/results", route_class=StrictRoute)

    async def one(request: Request, correlation_id: UUID, body: Body) -> Response:
        who = identity_of(request)
        need(who, RESULTS)
        return answered(await reported(broker, body.report(who, correlation_id)))

    @made.post("/batch")
    async def batch(request: Request, body: BatchBody) -> Response:
        """Report of many commands: each is answered by itself, in order, with its own status."""
        who = identity_of(request)
        need(who, RESULTS)
        items = [item.report(who, item.correlation_id) for item in body.items]
        return await batched(broker, who, items, peer=peer_of(request))

    @made.post("/{correlation_id}/claim")
    async def claim(request: Request, correlation_id: UUID, body: ClaimBody) -> Response:
        """Take an attempt before any side effect; on `proceed: false`, do nothing."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}/progress")
    async def progress(request: Request, correlation_id: UUID, body: ProgressBody) -> Response:
        """Say how far it is, and keep the lease."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}")
    async def result(request: Request, correlation_id: UUID, body: ResultBody) -> Response:
        """Say how it ended. The first report wins; a repeat is answered alike."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}/reject")
    async def reject(request: Request, correlation_id: UUID, body: RejectBody) -> Response:
        """Say that no rule takes an attempt: its command goes to the dead letters."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}/run")
    async def run(request: Request, correlation_id: UUID, body: RunBody) -> Response:
        """Say how a run fares that was started elsewhere; with an error, it is over."""
        return await one(request, correlation_id, body)

    return made


async def fast(
    broker: Parts, who: Identity, path: str, value: Any, *, peer: str
) -> Response | None:
    """The answer to a results request whose body is this JSON value; None where no route is.

    Raises:
        BrokerError: it is refused.
    """
    if path == BATCH_PATH:
        need(who, RESULTS)
        try:
            shape = SHAPE.validate_python(value)
        except ValidationError as error:
            raise invalid(RequestValidationError(placed(error, "body"))) from error
        return await batched(broker, who, [read(who, item) for item in shape.items], peer=peer)
    name, _, rest = path.removeprefix(PATH).partition("/")
    adapter = BODIES.get(rest)
    if adapter is None:
        return None
    try:
        command_id = UUID(name)
    except ValueError:
        return None  # FastAPI's route says what is wrong with it
    need(who, RESULTS)
    try:
        body = adapter.validate_python(value)
    except ValidationError as error:
        raise invalid(RequestValidationError(placed(error, "body"))) from error
    return answered(await reported(broker, body.report(who, command_id)))


def read(who: Identity, item: Any) -> Report | BrokerError:
    """One item of a batch, or what is wrong with it."""
    try:
        found = ITEM.validate_python(item)
    except ValidationError as error:
        return invalid(RequestValidationError(placed(error, "body")))
    return found.report(who, found.correlation_id)


async def reported(broker: Parts, report: Report) -> Answer:
    """Have one report applied, and count it."""
    answer = await broker.reports.report(report)
    count(report.kind, answer)
    return answer


async def batched(
    broker: Parts, who: Identity, reports: Sequence[Report | BrokerError], *, peer: str
) -> Response:
    """Have many reports applied; the answers are in their order."""

    async def one(report: Report | BrokerError) -> dict[str, Any]:
        if isinstance(report, BrokerError):
            return members(report)
        named = {"correlation_id": str(report.command_id)}
        try:
            answer = await reported(broker, report)
        except AWAY as error:
            return named | members(translated(error, path=BATCH_PATH))
        except BrokerError as error:
            if isinstance(error, NotBoundError):
                broker.refusals.denied(
                    who, reason="not_bound", peer=peer, detail=error.detail, path=BATCH_PATH
                )
            return named | members(error)
        return named | {"status": answer.status} | dict(answer.body)

    found = await asyncio.gather(*(one(report) for report in reports))
    return reply(200, {"items": found})


def answered(answer: Answer) -> Response:
    """A single report's answer."""
    return reply(answer.status, answer.body)


def count(kind: Kind, answer: Answer) -> None:
    """Count a report by what became of it."""
    named = str(kind)
    if kind is Kind.CLAIM:
        named = "claim" if answer.body["proceed"] else "claim_refused"
    elif kind not in {Kind.PROGRESS, Kind.RUN}:
        named = "result_repeated" if answer.body["repeated"] else "result"
    metrics.ADAPTER_REPORTS.labels(named).inc()
    if "misfit" in answer.body:
        metrics.ADAPTER_REPORTS.labels("result_misfit").inc()


def peer_of(request: Request) -> str:
    """The address that a request came from."""
    return "unknown" if request.client is None else request.client.host

"""The kinds there are, and the adapters that an executor keeps: `Adapters.run` is all it needs."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Final

import orjson

from adapters.contract import (
    ADAPTER_FAILED,
    CANCELLED,
    DEADLINE_EXCEEDED,
    MISCONFIGURED,
    RESULT_TOO_LARGE,
    RESULT_UNREADABLE,
    Adapter,
    AdapterCall,
    CallFailedError,
    Failure,
    Kind,
    Known,
    Opening,
    Outcome,
    Report,
    Result,
    Shared,
    failure,
)
from adapters.credentials import CredentialSources, TargetSecrets
from adapters.masking import mask
from adapters.targets import Target

logger = logging.getLogger(__name__)

KINDS: Final[Mapping[str, str]] = {
    "aap": "adapters.aap",
    "command": "adapters.command",
    "grpc": "adapters.grpc",
    "http": "adapters.http",
    "mcp": "adapters.mcp",
    "noop": "adapters.nothing",
    "echo": "adapters.nothing",
}
"""Each kind's module, imported when the first target of the kind is used: SDKs are large."""

STOP_S: Final = 15.0
"""How long a stopped call has to clean up before it is given up."""
KEPT_MAX: Final = 512
"""Adapters that are kept open."""
CHECKED_MAX: Final = 1000


def load(name: str) -> Kind:
    """A kind by its name.

    Raises:
        LookupError: there is none of this name, or its libraries are not installed.
    """
    if name not in KINDS:
        raise LookupError(f"there is no kind {name!r}; there are {', '.join(sorted(KINDS))}")
    try:
        kind: Kind = import_module(KINDS[name]).KIND
    except ImportError as error:
        raise LookupError(f"kind {name!r} needs a library: {error}") from error
    return kind


def check(target: Target, mapping: Mapping[str, Any]) -> list[str]:
    """What is wrong with a tool's `adapter:` and its target, for who writes a catalog."""
    try:
        return list(load(target.kind).check(target, mapping))
    except LookupError as error:
        return [str(error)]


Key = tuple[str, str, str | None]
"""A target, a tenant and, where the target wants to know it, the user."""


@dataclass(slots=True)
class Kept:
    """An open adapter, and how many calls it has."""

    adapter: Adapter
    kind: Kind
    secrets: TargetSecrets
    calls: int = 0
    checked: set[bytes] = field(default_factory=set[bytes])
    """Mappings that its kind has found nothing wrong with."""

    def check(self, call: AdapterCall) -> None:
        """Refuse a mapping, or a target, that the kind cannot work with."""
        written = orjson.dumps(call.mapping)
        if written in self.checked:
            return
        if wrong := list(self.kind.check(call.target, call.mapping)):
            raise CallFailedError(Known.REFUSED, MISCONFIGURED, "; ".join(wrong))
        if len(self.checked) < CHECKED_MAX:
            self.checked.add(written)


class Adapters:
    """Adapters by target and tenant, opened at first use; an executor has one of these."""

    def __init__(
        self,
        *,
        credentials: CredentialSources | None = None,
        kept_max: int = KEPT_MAX,
        stop_s: float = STOP_S,
    ) -> None:
        self._credentials = CredentialSources() if credentials is None else credentials
        self._kept_max = kept_max
        self._stop_s = stop_s
        self._kept = OrderedDict[Key, Kept]()
        self._shared = dict[str, Shared | None]()
        self._closing = set[asyncio.Task[None]]()

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Do a call's work, and say what came of it; raises nothing but CancelledError.

        It ends by the deadline, or when a cancel is requested, or with this task, and then takes
        at most `stop_s` to end what it has begun. Values of credentials are in nothing it says.
        """
        try:
            key, kept = self._open(call)
        except LookupError as error:
            return failure(call, CallFailedError(Known.REFUSED, MISCONFIGURED, str(error)))
        kept.calls += 1
        try:
            outcome = await self._outcome(kept, call, report)
        finally:
            kept.calls -= 1
            self._let_go(key)
        return _kept_in_bounds(call, _masked(outcome, kept.secrets.hidden))

    @property
    def kept(self) -> int:
        """How many adapters are open."""
        return len(self._kept)

    async def close(self) -> None:
        """Close every adapter; no call is running."""
        for one in self._kept.values():
            self._close(one)
        self._kept.clear()
        while self._closing:
            await asyncio.gather(*self._closing)
        for shared in self._shared.values():
            if shared is not None:
                await _closed(shared)
        self._shared.clear()
        await self._credentials.close()

    async def _outcome(self, kept: Kept, call: AdapterCall, report: Report) -> Outcome:
        try:
            kept.check(call)
            return await self._bounded(kept, call, _MaskedReport(report, kept.secrets))
        except CallFailedError as error:
            return failure(call, error)
        except Exception as error:  # one call fails, not its executor
            logger.exception("an adapter failed", extra={"command_id": call.command_id})
            words = f"The adapter made a mistake ({type(error).__name__}); see the worker's log."
            return failure(call, CallFailedError(Known.UNKNOWN, ADAPTER_FAILED, words))

    async def _bounded(self, kept: Kept, call: AdapterCall, report: Report) -> Outcome:
        left_s = call.remaining_s(call.target.limits.timeout_s)
        if left_s <= 0:
            raise CallFailedError(Known.NOT_DONE, DEADLINE_EXCEEDED, "Its deadline was over.")
        work = asyncio.ensure_future(kept.adapter.run(call, report))
        wish = asyncio.ensure_future(report.until_cancelled())
        try:
            await asyncio.wait((work, wish), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if wish.done():
                return await self._stopped(work, CANCELLED, "It was cancelled while it ran.")
            return await self._stopped(work, DEADLINE_EXCEEDED, "It was not done in time.")
        finally:
            wish.cancel()
            if not work.done():  # this task was cancelled
                work.cancel()
                await asyncio.wait((work,), timeout=self._stop_s)

    async def _stopped(self, work: asyncio.Future[Outcome], code: str, words: str) -> Outcome:
        """What a call came to that was asked to end: it may have been done at the last moment."""
        work.cancel()
        await asyncio.wait((work,), timeout=self._stop_s)
        known = Known.UNKNOWN
        if work.done() and not work.cancelled():
            error = work.exception()
            if error is None:
                return work.result()
            if not isinstance(error, CallFailedError):
                logger.error("an adapter failed as it was stopped", exc_info=error)
            elif error.known in (Known.REFUSED, Known.DONE):
                raise error
            else:
                known, words = error.known, f"{words} {error.message}"
        raise CallFailedError(known, code, words)

    def _open(self, call: AdapterCall) -> tuple[Key, Kept]:
        given = call.target.credential or {}
        # A session that was opened as one user is not used for another.
        whose = call.user if given.get("type") == "exchange" else None
        key = (call.target.identity, call.tenant, whose)
        kept = self._kept.get(key)
        if kept is None:
            kind = load(call.target.kind)
            secrets = self._credentials.of(call.tenant)
            opening = Opening(
                target=call.target,
                tenant=call.tenant,
                secrets=secrets,
                shared=self._shared_of(call.target.kind, kind),
            )
            kept = self._kept[key] = Kept(kind.open(opening), kind, secrets)
        self._kept.move_to_end(key)
        return key, kept

    def _shared_of(self, name: str, kind: Kind) -> Shared | None:
        if name not in self._shared:
            self._shared[name] = None if kind.share is None else kind.share()
        return self._shared[name]

    def _let_go(self, used: Key) -> None:
        """Close what was used longest ago, where too many are open."""
        if len(self._kept) <= self._kept_max:
            return
        for key, one in list(self._kept.items()):
            if one.calls == 0 and key != used:
                self._close(self._kept.pop(key))
            if len(self._kept) <= self._kept_max:
                return

    def _close(self, kept: Kept) -> None:
        task = asyncio.ensure_future(_closed(kept.adapter))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _MaskedReport:
    """A report that says no credential."""

    def __init__(self, report: Report, secrets: TargetSecrets) -> None:
        self._report = report
        self._secrets = secrets
        self.until_cancelled = report.until_cancelled

    @property
    def cancel_requested(self) -> bool:
        return self._report.cancel_requested

    async def progress(
        self, done: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        await self._report.progress(done, total, mask(message, self._secrets.hidden))

    async def tell_run(self, name: str, status: str, link: str) -> None:
        await self._report.tell_run(name, status, link)


async def _closed(adapter: Adapter | Shared) -> None:
    try:
        await adapter.close()
    except Exception:
        logger.exception("an adapter could not be closed")


def _masked(outcome: Outcome, hidden: Iterable[str]) -> Outcome:
    if not hidden:
        return outcome
    if isinstance(outcome, Failure):
        return replace(
            outcome, message=mask(outcome.message, hidden), details=mask(outcome.details, hidden)
        )
    return Result(value=mask(outcome.value, hidden), content=mask(outcome.content, hidden))


def _kept_in_bounds(call: AdapterCall, outcome: Outcome) -> Outcome:
    """What can be reported: JSON, within the target's limit."""
    bound = call.target.limits.result_bytes_max
    try:
        if isinstance(outcome, Failure):
            if len(orjson.dumps(outcome.details)) <= bound:
                return outcome
            return replace(outcome, details={})
        size = len(orjson.dumps(outcome.value)) + len(orjson.dumps(outcome.content))
    except (TypeError, ValueError) as error:
        if isinstance(outcome, Failure):
            return replace(outcome, details={})
        words = f"The work was done; its result cannot be kept as JSON: {error}."
        return failure(call, CallFailedError(Known.DONE, RESULT_UNREADABLE, words))
    if size <= bound:
        return outcome
    words = f"The work was done; its result has {size} bytes, of at most {bound}."
    return failure(call, CallFailedError(Known.DONE, RESULT_TOO_LARGE, words))

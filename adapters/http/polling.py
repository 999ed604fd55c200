"""Work that a target has only accepted (202): asked for until it has ended."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from adapters.contract import (
    TARGET_FAILED,
    TARGET_LOST,
    AdapterCall,
    CallFailedError,
    Known,
    Report,
    Result,
)
from adapters.http.bodies import Answer, result, told
from adapters.http.judging import SUCCESSES, retry_after
from adapters.http.sending import Wire

ACCEPTED: Final = 202
OPERATION: Final = ("operation-location", "azure-asyncoperation")
EVERY_S: Final = 1.0
EVERY_MAX_S: Final = 30.0
LONGER: Final = 1.5
ENDED_WELL: Final = ("succeeded", "success", "completed", "complete", "done", "finished")
ENDED_ILL: Final = ("failed", "failure", "error", "canceled", "cancelled", "aborted", "rejected")
CANCEL_S: Final = 5.0
GONE: Final = (404, 410)


def is_pending(answer: Answer) -> bool:
    """Whether an answer says where to ask for the work's end."""
    return answer.status == ACCEPTED and _place(answer) is not None


def _place(answer: Answer) -> str | None:
    return next(
        (answer.headers[one] for one in (*OPERATION, "location") if one in answer.headers), None
    )


class Operation:
    """One piece of work at the target."""

    def __init__(self, wire: Wire, headers: Mapping[str, str], call: AdapterCall) -> None:
        self._wire = wire
        self._headers = headers
        self._rules: Mapping[str, Any] = call.mapping.get("poll", {})

    async def follow(self, accepted: Answer, report: Report) -> Result:
        """Ask until it has ended; asking again does no harm, so a broken exchange is no end.

        Raises:
            CallFailedError: it failed, or the target does not know of it any more.
        """
        place = _place(accepted)
        assert place is not None
        url = self._wire.within(accepted.url, place)
        try:
            return await self._follow(accepted, url, report)
        except asyncio.CancelledError:
            await self._cancel(str(url))
            raise

    async def _follow(self, accepted: Answer, url: Any, report: Report) -> Result:
        has_status = any(one in accepted.headers for one in OPERATION) or "status" in self._rules
        every_s: float = self._rules.get("every_s", EVERY_S)
        wait_s = retry_after(accepted)
        while True:
            await asyncio.sleep(every_s if wait_s is None else wait_s)
            every_s = min(every_s * LONGER, EVERY_MAX_S)
            try:
                answer = await self._wire.send("GET", url, self._headers)
            except CallFailedError as error:
                if error.known is Known.REFUSED:
                    raise
                wait_s = None
                continue
            wait_s = retry_after(answer)
            if answer.status == ACCEPTED:
                continue
            if answer.status not in SUCCESSES:
                _lost(answer)
                continue
            if not has_status:
                return result(answer)
            value = answer.json()
            state = str(_at(value, self._rules.get("status", "/status"))).lower()
            if state in self._rules.get("failed", ENDED_ILL):
                words = f"The target's work ended as {state}."
                raise CallFailedError(Known.REFUSED, TARGET_FAILED, words, details=told(answer))
            if state in self._rules.get("done", ENDED_WELL):
                return await self._result(answer, value)
            percent = _at(value, "/percentComplete")
            await report.progress(percent if type(percent) in (int, float) else None, 100, state)

    async def _result(self, answer: Answer, value: Any) -> Result:
        """Of an operation that ended well: where it says that it is, or in it."""
        place = _at(value, "/resourceLocation")
        if isinstance(place, str):
            found = await self._wire.send(
                "GET", self._wire.within(answer.url, place), self._headers
            )
            if found.status in SUCCESSES:
                return result(found)
            words = "The target did it, and does not give the result."
            raise CallFailedError(Known.DONE, TARGET_FAILED, words, details=told(found))
        if "result" in self._rules:
            return Result(value=_at(value, self._rules["result"]))
        return result(answer)

    async def _cancel(self, url: str) -> None:
        """Ask the target to end it, where the mapping says how."""
        method = self._rules.get("cancel")
        if method is None:
            return
        try:
            async with asyncio.timeout(CANCEL_S):
                await self._wire.send(
                    method, self._wire.within(self._wire.base, url), self._headers
                )
        except (CallFailedError, TimeoutError):
            return


def _lost(answer: Answer) -> None:
    """Go on asking a target that has trouble; end at one that knows nothing of it."""
    if answer.status in GONE:
        words = f"The target does not know of the work any more ({answer.status})."
        raise CallFailedError(Known.UNKNOWN, TARGET_LOST, words, details=told(answer))


def _at(value: Any, pointer: str) -> Any:
    for name in pointer.split("/")[1:]:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value

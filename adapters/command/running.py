"""One call's program, from its start to its whole tree's end."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from typing import Any, Final

import orjson

from adapters.command.arguments import argv
from adapters.command.launching import Launcher, Running
from adapters.command.specs import spec_of
from adapters.command.streams import Streams
from adapters.contract import (
    CANCELLED,
    RESULT_TOO_LARGE,
    RESULT_UNREADABLE,
    TARGET_FAILED,
    AdapterCall,
    CallFailedError,
    Known,
    Opening,
    Outcome,
    Report,
    Result,
)
from adapters.progress import Telling

PROGRESS_FD: Final = 3
SAID_MAX: Final = 4096
"""Bytes of what a program that failed said, as its error quotes it."""
ENVELOPE: Final = 16
"""Bytes of what stands around a value."""
TEMPORARY_FAILURE: Final = 75
"""EX_TEMPFAIL of sysexits.h."""
NEW_LINE: Final = "\n"
END_S: Final = 12.0
"""From a request to end, over the greatest grace, to the tree's end."""


class Program:
    """The target's program; each call has its own process."""

    def __init__(self, opening: Opening) -> None:
        assert isinstance(opening.shared, Launcher)
        self._launcher = opening.shared
        self._opening = opening

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Run it to its end; ended early, nothing of it is left running."""
        arguments = argv(self._opening.target.address, call.mapping, call.args)
        spec = await spec_of(self._opening, arguments, _names(call))
        given = orjson.dumps(call.args) if call.mapping.get("stdin", "args") == "args" else b""
        bound = self._opening.target.limits.result_bytes_max
        async with Streams(bound) as streams, Telling(report) as telling:
            running = await self._launcher.start(spec, streams.theirs)
            try:
                await streams.open(given, telling)
                ended = await running.ended()
                await streams.end()
            except asyncio.CancelledError:
                raise await _stopped(running, call.mapping) from None
            finally:
                running.close()
            return _outcome(call, ended, streams)

    async def close(self) -> None:
        """Nothing is kept between calls but the launcher."""


def _names(call: AdapterCall) -> dict[str, str]:
    """What a program may want to know of its call, beside the arguments."""
    given = {
        "MCP_ATTEMPT": str(call.attempt),
        "MCP_COMMAND_ID": call.command_id,
        "MCP_IDEMPOTENCY_KEY": call.idempotency_key,
        "MCP_METHOD": call.method,
        "MCP_PROGRESS_FD": str(PROGRESS_FD),
        "MCP_TENANT": call.tenant,
        "MCP_TOOL": call.tool,
    }
    return given if call.traceparent is None else given | {"TRACEPARENT": call.traceparent}


async def _stopped(running: Running, mapping: Mapping[str, Any]) -> CallFailedError:
    """End it, and say what is known then: something, where the mapping names its exit code."""
    running.stop()
    try:
        async with asyncio.timeout(END_S):
            ended = await running.ended()
    except (TimeoutError, CallFailedError):
        return CallFailedError(Known.UNKNOWN, CANCELLED, "Its program was ended.")
    known = mapping.get("exit_codes", {}).get(str(ended.get("exit", "")), Known.UNKNOWN)
    return CallFailedError(Known(known), CANCELLED, f"Its program {_words(ended)}.")


def _outcome(call: AdapterCall, ended: Mapping[str, int], streams: Streams) -> Outcome:
    known = _known(call.mapping.get("exit_codes", {}), ended)
    if known is not None:
        stderr = _text(streams.stderr).strip()
        raise CallFailedError(
            known,
            TARGET_FAILED,
            f"The program {_words(ended)}{': ' if stderr else '.'}{stderr.rpartition(NEW_LINE)[2]}",
            details={**ended, "stderr": stderr, "stdout": _text(streams.stdout[:SAID_MAX])},
        )
    if call.mapping.get("stdout", "json") == "text":
        return Result(value=_cut(_text(streams.stdout), call, truncated=streams.overflow > 0))
    if streams.overflow:
        words = f"The program was done; it said over {len(streams.stdout)} bytes."
        raise CallFailedError(Known.DONE, RESULT_TOO_LARGE, words)
    if not streams.stdout.strip():
        return Result(value=None)
    try:
        return Result(value=orjson.loads(streams.stdout))
    except orjson.JSONDecodeError as error:
        words = f"The program was done; its output is not JSON: {error}."
        details = {"stdout": _text(streams.stdout[:SAID_MAX])}
        raise CallFailedError(Known.DONE, RESULT_UNREADABLE, words, details=details) from None


def _cut(text: str, call: AdapterCall, *, truncated: bool) -> dict[str, Any]:
    """A text that is within the target's limit as JSON, too."""
    bound = call.target.limits.result_bytes_max
    value: dict[str, Any] = {"text": text, "truncated": truncated}
    while text and (over := len(orjson.dumps(value)) + ENVELOPE - bound) > 0:
        # A character has up to six bytes there: each round takes at least a sixth of what is over.
        text = text[: -max(1, over // 6)]
        value = {"text": text, "truncated": True}
    return value


def _known(codes: Mapping[str, str], ended: Mapping[str, int]) -> Known | None:
    """What an end says of the effect; None: the work is done.

    A program that exits with an error has answered; one that a signal ended has not.
    """
    if "signal" in ended:
        return Known.UNKNOWN
    code = ended["exit"]
    if (named := codes.get(str(code))) is not None:
        return None if named == Known.DONE else Known(named)
    if code == 0:
        return None
    return Known.NOT_DONE if code == TEMPORARY_FAILURE else Known.REFUSED


def _words(ended: Mapping[str, int]) -> str:
    if "exit" in ended:
        return f"ended with exit code {ended['exit']}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(ended['signal']).name}"
    return f"was ended by signal {ended['signal']}"


def _text(raw: bytes | bytearray) -> str:
    """Text as a database keeps it: no NUL, and a mark for what is not UTF-8."""
    return raw.decode(errors="replace").replace("\0", "\ufffd")

"""What a job has written, and why it failed, from its events as the controller lists them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

FAILED: Final = frozenset({"runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"})
LINES_MAX: Final = 20
TEXT_MAX: Final = 4000
UNTOLD: Final = re.compile("\x1b\\[[0-9;]*m|[\x00\ud800-\udfff]")
"""Colours, as a job's output has them, and what no text of ours takes."""


def failed_task(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The task that failed last; of one with no_log the message is not to be had."""
    for event in events:
        data = event.get("event_data") or {}
        result = data.get("res") or {}
        if data.get("ignore_errors"):
            continue
        if event["event"] in FAILED and result.get("msg"):
            named = {"task": data.get("task"), "host": data.get("host")}
            return named | {"message": UNTOLD.sub("", str(result["msg"]))[:TEXT_MAX]}
    return None


def lines_of(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The end of the output, of events that come newest first."""
    texts = [UNTOLD.sub("", str(event.get("stdout") or "")) for event in reversed(events)]
    return [line.rstrip() for text in texts for line in text.splitlines() if line.strip()]


def ending(lines: Sequence[str], chars_max: int = TEXT_MAX) -> str:
    """As much of the output as people look at first."""
    return "\n".join(lines[-LINES_MAX:])[-chars_max:]


def last_line(text: str | None) -> str:
    """Of a traceback, what was raised."""
    lines = (text or "").strip().splitlines()
    return lines[-1].strip() if lines else ""

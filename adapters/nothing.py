"""Kinds that do no work: `noop` answers with nothing, `echo` with its arguments.

For measuring what the way costs without the work, and for trying it.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from adapters.contract import AdapterCall, Kind, Opening, Outcome, Report, Result
from adapters.targets import Target


class Nothing:
    """Both; `delay_s` in the mapping is how long the work takes, with a word of progress each."""

    def __init__(self, opening: Opening) -> None:
        self._echo = opening.target.kind == "echo"

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Answer, after the delay if there is one."""
        delay_s = call.mapping.get("delay_s", 0)
        if delay_s:
            await report.progress(0, delay_s, "waiting")
            await asyncio.sleep(delay_s)
            await report.progress(delay_s, delay_s, "waited")
        return Result(value=dict(call.args) if self._echo else None)

    async def close(self) -> None:
        """There is nothing to close."""


def check(_target: Target, mapping: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with a mapping."""
    if unknown := sorted(set(mapping) - {"delay_s"}):
        yield f"adapter has no {', '.join(unknown)}; it takes delay_s"
    delay_s = mapping.get("delay_s", 0)
    if not isinstance(delay_s, int | float) or isinstance(delay_s, bool) or delay_s < 0:
        yield "adapter.delay_s must be a number of seconds"


KIND: Final = Kind(open=Nothing, check=check)

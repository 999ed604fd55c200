"""`python -m benchmarks`: run them all, or some; a table for people and JSON for machines."""

import argparse
import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import orjson
import uvloop
from rich.console import Console

from benchmarks import (
    audit,
    dispatch,
    end_to_end,
    endurance,
    fairness,
    gateways,
    growth,
    idle,
    intake,
    life,
    results,
    sagas,
    tracing,
)
from benchmarks.measure import Figure, Stopwatch, as_json, show
from benchmarks.servers import Servers, environment

logger = logging.getLogger(__name__)

Benchmark = Callable[[Servers], Awaitable[list[Figure]]]

ALL: Final[dict[str, Benchmark]] = {
    "hot-key": fairness.hot_key,
    "noisy-tenant": fairness.noisy_tenant,
    "overtaking": fairness.overtaking,
    "audit": audit.intake_with_and_without,
    "sealing": audit.sealing,
    "intake": intake.library,
    "peers": intake.peers,
    "http": intake.over_http,
    "mcp": intake.over_mcp,
    "traces": tracing.intake_with_and_without,
    "latency": dispatch.latency,
    "drain": dispatch.drain,
    "life": life.whole,
    "results": results.words,
    "waking": results.waking,
    "growth": growth.growth,
    "idle": idle.idle,
    "eda": end_to_end.through_eda,
}

LONG: Final[dict[str, Benchmark]] = {
    "gateways": gateways.echo_calls,
    "sagas": sagas.concurrent_sagas,
    "memory": endurance.memory,
    "pinned": endurance.pinned,
}
"""Those that take minutes each: `--long`, or `--only` with their names."""


async def run(names: list[str], *, quick: bool, console: Console) -> tuple[list[Figure], list[str]]:
    """Run benchmarks by name, one after the other, on the same servers; and which broke."""
    found: list[Figure] = []
    broken: list[str] = []
    async with Servers(quick=quick) as servers:
        for name in names:
            # As an app does when it has started: else what is measured waits for collections.
            gc.collect()
            gc.freeze()
            watch = Stopwatch()
            try:
                made = await (ALL | LONG)[name](servers)
            except Exception:
                logger.exception("%s broke", name)
                broken.append(name)
                continue
            console.print(f"{name}: {watch.s:.0f} s")
            show(made, console)
            found += made
    return found, broken


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*ALL, *LONG], help="may be repeated")
    parser.add_argument("--long", action="store_true", help=f"also {', '.join(LONG)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    on = environment()
    names = arguments.only or [*ALL, *(LONG if arguments.long or arguments.quick else ())]
    figures, broken = uvloop.run(run(names, quick=arguments.quick, console=console))
    if arguments.only is None or len(names) > 1:
        show(figures, console)
    if arguments.json is not None:
        body = {"machine": on, "quick": arguments.quick, "figures": as_json(figures)}
        arguments.json.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2))
    if broken:
        sys.exit(f"broke: {', '.join(broken)}")


if __name__ == "__main__":
    main()

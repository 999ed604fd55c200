"""The list and plots of docs/PERFORMANCE.md.

`python -m benchmarks.plots FIGURES.json FOLDER` prints the list and writes the plots, as SVG.
"""

import re
import sys
import textwrap
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl
import orjson
from matplotlib import pyplot as plt

from benchmarks.measure import shown

STAGE: Final = re.compile(r"([a-z._]+) -> ([a-z._]+): (\d+) ms")
COLUMNS: Final = 100


def ratios(figures: list[dict[str, Any]], path: Path) -> None:
    """Every figure's ratio with its least and greatest pair, and its goal."""
    chosen = [one for one in figures if one["ratio"] is not None]
    plot, axes = plt.subplots(figsize=(9, 0.34 * len(chosen) + 1))
    for n, one in enumerate(reversed(chosen)):
        colour = {True: "tab:green", False: "tab:red", None: "tab:gray"}[one["met"]]
        axes.plot([one["ratio_min"], one["ratio_max"]], [n, n], color=colour, lw=2)
        axes.plot(one["ratio"], n, "o", color=colour)
        if one["goal"]:
            axes.plot(float(one["goal"].split()[1]), n, "|", color="black", ms=12)
    axes.set_yticks(
        range(len(chosen)),
        [f"{one['name']} / {one['against']}" for one in reversed(chosen)],
        fontsize=7,
    )
    axes.set_xscale("log")
    axes.set_xlabel("ratio of medians, with the least and greatest of a pair; | is the goal")
    axes.grid(visible=True, axis="x", alpha=0.3)
    plot.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(plot)


def waterfall(figure: dict[str, Any], path: Path) -> None:
    """Where the time of a call through EDA goes."""
    plot, axes = plt.subplots(figsize=(9, 2.4))
    at = 0.0
    stages = [(f"{a} → {b}", float(ms) / 1000) for a, b, ms in STAGE.findall(figure["note"])]
    for n, (_, seconds) in enumerate(stages):
        axes.barh(len(stages) - n, seconds, left=at, color="tab:blue")
        axes.text(
            at + seconds, len(stages) - n, f" {seconds * 1000:.0f} ms", va="center", fontsize=8
        )
        at += seconds
    axes.set_yticks(range(len(stages), 0, -1), [stage for stage, _ in stages], fontsize=8)
    axes.set_xlabel("seconds since the call was accepted")
    plot.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(plot)


def listed(figures: list[dict[str, Any]]) -> str:
    """The figures as a list in Markdown: a median, what it is held against, and the goal."""
    lines: list[str] = []
    for one in figures:
        said = f"- {one['name']}: **{shown(median(one['subject']))} {one['unit']}**"
        if one["baseline"]:
            spread = f"{shown(one['ratio_min'])}-{shown(one['ratio_max'])}"
            said += f"; {one['against']}: {shown(median(one['baseline']))}"
            said += f"; ratio {shown(one['ratio'])} ({spread})"
        if one["goal"]:
            said += f"; goal {one['goal']}: {'met' if one['met'] else '**missed**'}"
        lines += textwrap.wrap(said, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    mpl.rcParams["svg.hashsalt"] = "mcp-broker"  # the same figures give the same file
    mpl.rcParams["svg.fonttype"] = "none"
    folder.mkdir(parents=True, exist_ok=True)
    figures = orjson.loads(source.read_bytes())["figures"]
    print(listed(figures))
    ratios(figures, folder / "ratios.svg")
    for one in figures:
        if "->" in one["note"] and one["name"].startswith("a call through EDA"):
            waterfall(one, folder / "waterfall.svg")


if __name__ == "__main__":
    main()

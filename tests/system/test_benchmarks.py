"""Every benchmark runs and gives its figures; no time is judged."""

import asyncio
import sys
from pathlib import Path

import orjson
import pytest

from app import assets

ROOT = assets.root()
# The others need the peers' packages, Kafka of their own, or more than some seconds.
QUICK = ("overtaking", "intake", "http")


@pytest.mark.timeout(180)
async def test_the_benchmarks_run_and_give_their_figures(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(written)]
    for name in QUICK:
        argv += ["--only", name]
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 150)
    assert process.returncode == 0, out.decode()[-2000:]
    figures = orjson.loads(written.read_bytes())["figures"]
    assert len(figures) == len(QUICK)
    for one in figures:
        assert one["subject"]
        assert len(one["subject"]) == len(one["baseline"]), one["name"]
        assert one["ratio_min"] <= one["ratio_max"]
        assert one["ratio"] > 0

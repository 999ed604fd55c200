"""Native histograms as the machine's Prometheus scrapes them, by protobuf."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app import exposition, metrics
from devstack import prometheus
from devstack.postgres import free_port
from devstack.prometheus import LocalPrometheus
from tests.support.stack import wait_for

NATIVE = ("exemplar-storage", "native-histograms")
TRACE = "e" * 32
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01"

pytestmark = pytest.mark.skipif(
    not prometheus.found(), reason="Prometheus is not here (Debian has it in `prometheus`)"
)


@contextmanager
def scraped(home: Path, *, natively: bool) -> Generator[LocalPrometheus]:
    """A Prometheus that takes native histograms, of this process's figures."""
    port = free_port()
    with exposition.served("127.0.0.1", port, natively=natively):
        server = LocalPrometheus(home, {"app": port}, every_s=0.5, features=NATIVE)
        server.start()
        try:
            yield server
        finally:
            server.stop()


async def asked(server: LocalPrometheus, query: str) -> list[dict[str, Any]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{server.url}/api/v1/query", params={"query": query})
    return answer.json()["data"]["result"]


async def value(server: LocalPrometheus, query: str) -> float:
    found = await wait_for(lambda: asked(server, query), 30)
    return float(found[0]["value"][1])


@pytest.mark.guarantee("metrics:native")
async def test_a_percentile_of_native_buckets_is_near_the_true_one(tmp_path: Path) -> None:
    tool, drawn = f"native-{uuid4()}", Random(1)
    times = sorted(drawn.lognormvariate(0, 2) for _ in range(1000))
    for seconds in times:
        metrics.RUN_S.observe(seconds, tool, "do", "succeeded", trace=SAMPLED)
    metrics.RETRIES.inc()
    with scraped(tmp_path, natively=True) as server:
        series = f'mcpbroker_run_seconds{{tool="{tool}"}}'
        assert await value(server, f"histogram_count({series})") == len(times)
        assert await value(server, f"histogram_sum({series})") == pytest.approx(sum(times))
        for share in (0.05, 0.5, 0.95, 0.99):
            true = times[int(share * len(times))]
            found = await value(server, f"histogram_quantile({share}, {series})")
            assert found == pytest.approx(true, rel=0.1), share
        # This Prometheus keeps the classic ones beside them only from 2.45 on.
        assert await asked(server, f'mcpbroker_run_seconds_bucket{{tool="{tool}"}}') == []
        assert await value(server, "mcpbroker_retries_total") >= 1
        assert await value(server, "up") == 1


@pytest.mark.guarantee("metrics:native")
async def test_where_no_setting_allows_it_the_classic_ones_stay(tmp_path: Path) -> None:
    tool = f"classic-{uuid4()}"
    metrics.RUN_S.observe(1, tool, "do", "succeeded")
    with scraped(tmp_path, natively=False) as server:
        assert await value(server, f'mcpbroker_run_seconds_bucket{{tool="{tool}", le="1.0"}}') == 1
        assert await asked(server, f'mcpbroker_run_seconds{{tool="{tool}"}}') == []

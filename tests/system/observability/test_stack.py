"""`make up OBSERVE=1`: the embedded stack with the machine's own Prometheus."""

from pathlib import Path

import httpx
import pytest

from devstack import prometheus
from devstack.stack import OBSERVED, Stack


@pytest.mark.skipif(
    not prometheus.found(), reason="Prometheus is not here (Debian has it in `prometheus`)"
)
def test_an_observed_stack_has_a_prometheus_that_scrapes_each_part_and_ends_with_it(
    tmp_path: Path,
) -> None:
    stack = Stack(tmp_path / "stack", observe=True, say=lambda _: None)
    stack.start()
    try:
        server = stack.prometheus
        assert server is not None
        assert stack.pids()["prometheus"] == server.process.pid
        assert str(server.home) in stack.folders()
        with httpx.Client(trust_env=False) as http:

            def asked(query: str) -> list[dict[str, dict[str, str]]]:
                answer = http.get(f"{server.url}/api/v1/query", params={"query": query})
                return answer.json()["data"]["result"]

            server.process.wait_ready(lambda: len(asked("up == 1")) == len(OBSERVED), timeout_s=60)
            assert {one["metric"]["job"] for one in asked("up == 1")} == set(OBSERVED)
            releases = asked("mcpbroker_build_info or mcpbroker_worker_info")
            assert {one["metric"]["job"] for one in releases} == set(OBSERVED)
    finally:
        stack.stop()
    assert not server.process.running

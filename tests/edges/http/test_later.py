"""`not_before` over HTTP: how a time is written, and what its caller is told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from devstack.stack import Dsns
from tests.support.calls import counts
from tests.support.served import Shared

CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
SAGA = {"saga_id": "0197d1f0-0000-7000-8000-000000000001", "saga_step": "a"}


@pytest.mark.guarantee("later:waits")
@pytest.mark.parametrize("written", ["{0:%Y-%m-%dT%H:%M:%S}Z", "{0:%Y-%m-%d %H:%M:%S}.123456789z",
                                     "{0:%Y-%m-%dT%H:%M:%S}.5+00:00"])  # fmt: skip
async def test_a_time_is_taken_as_rfc_3339_has_it(http: httpx.AsyncClient, written: str) -> None:
    at = datetime.now(UTC) + timedelta(days=2)
    answer = await http.post("/mcp/tools/call", json=CALL | {"not_before": written.format(at)})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    told = datetime.fromisoformat(body["not_before"])
    assert abs(told - at) < timedelta(seconds=1)
    assert datetime.fromisoformat(body["deadline_at"]) > told
    shown = (await http.get(f"/commands/{body['command_id']}")).json()
    assert shown["not_before"] == body["not_before"]


@pytest.mark.guarantee("later:waits")
@pytest.mark.parametrize(
    "written",
    [
        *("tomorrow", "", "2027-01-31", "2027-01-31T09:00:00", "2027-W01-1T09:00:00Z"),
        *("2027-02-30T09:00:00Z", "2027-01-31T25:00:00Z", "2027-01-31T09:00:60Z"),
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2027-01-31T09:00:00+99:99"),
        *("２０２７-01-31T09:00:00Z", "2027-01-31T09:00:00Z\x00", "x" * 10_000),  # noqa: RUF001
        *(1_800_000_000, 1e300, True, [], {}, "9999-12-31T00:00:00Z"),
    ],
)  # fmt: skip
async def test_what_is_no_time_is_refused_and_leaves_nothing(shared: Shared, written: Any) -> None:
    answer = await shared.http.post("/mcp/tools/call", json=CALL | {"not_before": written})
    assert answer.status_code in {400, 422}, answer.text
    assert "not_before" in answer.text
    assert await counts(shared.dsns.owner) == (0, 0, 0)


@pytest.mark.guarantee("later:waits")
async def test_a_sagas_step_has_no_later_start(http: httpx.AsyncClient, database: Dsns) -> None:
    at = {"not_before": "2027-01-31T09:00:00Z"}
    answer = await http.post("/mcp/tools/call", json=CALL | SAGA | at)
    assert answer.status_code in {400, 422}
    assert "not_before" in answer.text
    assert await counts(database.owner) == (0, 0, 0)

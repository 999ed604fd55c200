"""Spans that cannot be made cost nobody a publication."""

import logging
from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from app.commands.store.dispatch_claim import LeasedRow
from devstack.stack import Dsns
from relay.traces import Traces
from tests.support.traced import opening


async def test_an_end_whose_story_cannot_be_read_costs_its_spans_alone(
    database: Dsns, caplog: pytest.LogCaptureFixture
) -> None:
    row = LeasedRow(
        outbox_id=1,
        event_id=uuid4(),
        kind="result",
        topic="mcp.results",
        key="demo:x",
        tenant_id="demo",
        command_id=uuid4(),
        attempt=1,
        ready_at=datetime.now(UTC),
    )
    async with asyncpg.create_pool(database.owner, min_size=1, max_size=1) as pool:
        await pool.execute("ALTER TABLE saga_steps RENAME COLUMN command_id TO of_later")
        with opening() as made, caplog.at_level(logging.WARNING):
            tracing = made().tracing
            assert tracing is not None
            await Traces(pool, tracing).published([row], start_ns=1, end_ns=2)
    assert "spans are lost" in caplog.text

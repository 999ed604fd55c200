"""`broker-relay`: publishes the outbox, keeps the timers, seals the audit trail.

Stops on SIGTERM or SIGINT: what it has claimed is published and recorded first.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from random import SystemRandom

import asyncpg
import uvloop
from aiokafka.errors import KafkaError
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsError

from app import assets, config, logs, metrics
from app.audit.keys import pinned, signer
from app.config import Settings
from app.config.otel import OtelSettings
from app.postgres import migrate, pooler, wakeups
from app.postgres.engine import direct_of, open_database
from app.postgres.pooler import PoolerError
from app.postgres.wakeups import Notifier
from app.supervision import Supervisor
from app.traces import tracing as spans
from app.traces.exports import exported
from app.traces.tracing import ExtraMissingError
from relay import anchors, gauges
from relay.clock import Clock
from relay.outbound import Outbound
from relay.publisher import Publisher
from relay.sagas import Conductor
from relay.sealer import Retention, Sealer
from relay.traces import Traces
from relay.webhooks import Webhooks

logger = logging.getLogger("relay")


async def serve(settings: Settings) -> None:
    """Run until a signal.

    Raises:
        PoolerError: what is between us and PostgreSQL cannot be used so.
    """
    relay = f"{socket.gethostname()}:{os.getpid()}"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    url, direct = settings.database_url.get_secret_value(), direct_of(settings)
    known = await pooler.known(url, direct_url=direct)
    hot_max = settings.relay_pool_max  # batches, events, seals, wakeups: none waits for one
    async with (
        open_database(settings, name="broker-relay", hot_max=hot_max) as database,
        spans.running(settings, service="relay") as tracing,
    ):
        otel = OtelSettings()
        notifier = Notifier(database.pool, coalesce_ms=settings.notify_coalesce_ms)
        publisher = Publisher(settings, client_id=f"broker-relay-{relay}")
        traces = None if tracing is None else Traces(database.pool, tracing)
        outbound = Outbound(
            database.pool, publisher, notifier, settings, relay=relay, traces=traces
        )
        clock = Clock(database.engine, database.pool, notifier, settings, random=SystemRandom())
        conductor = Conductor(database.engine, notifier, settings)
        handlers = {wakeups.OUTBOX: outbound.wake, wakeups.SAGAS: conductor.wake}
        supervisor = Supervisor()
        supervisor.start(
            "listen", lambda: wakeups.listen(database.direct_dsn, handlers, name="broker-relay")
        )
        supervisor.start("notifier", notifier.run)
        if not known:
            supervisor.start("pooler", lambda: pooler.find_out(url, direct_url=direct))
        connecting = asyncio.create_task(publisher.connect())  # it ends; publishing tries too
        stop_waits = asyncio.create_task(_wake_on_stop(stop, outbound, conductor))
        # What is there now stays to the end; a full collection would walk all of it, and every
        # batch on its way would wait for tens of milliseconds.
        gc.collect()
        gc.freeze()
        logger.info("relay started", extra={"relay": relay, "kafka": settings.kafka_bootstrap})
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(outbound.run(stop))
                group.create_task(clock.run(stop))
                group.create_task(conductor.run(stop))
                if settings.webhook_keys:
                    webhooks = Webhooks(
                        database.engine, settings, random=SystemRandom(), tracing=tracing
                    )
                    group.create_task(webhooks.run(stop))
                if settings.metrics_port is not None or otel.exports(otel.metrics_exporter):
                    group.create_task(gauges.keep(database.pool, stop, every_s=settings.gauges_s))
                if settings.seal_keys:
                    sealer = sealer_of(settings, database.pool, notifier)
                    metrics.SEALER.set_function(lambda: sealer.counts.leading)
                    group.create_task(sealer.run(stop))
                else:
                    logger.warning("the audit trail is not sealed: set MCP_BROKER_SEAL_KEYS")
        finally:
            supervisor.stop()
            for task in (connecting, stop_waits):
                task.cancel()
            await publisher.discard()
        logger.info("relay stopped", extra={"published": outbound.published})


def sealer_of(settings: Settings, pool: asyncpg.Pool, notifier: Notifier) -> Sealer:
    """What seals the audit trail with the settings' keys."""
    return Sealer(
        pool,
        [signer(spec) for spec in settings.seal_keys],
        log=settings.audit_log,
        interval_s=settings.seal_s,
        lease_s=max(4.0, 4 * settings.seal_s),
        anchor_file=settings.anchor_file,
        published=lambda: anchors.newest(settings),
        retention_policy=Retention(
            keys=pinned(settings.retention_keys), kept_s=settings.events_kept_s
        ),
        on_sealed=notifier.outbox,
    )


async def _wake_on_stop(stop: asyncio.Event, outbound: Outbound, conductor: Conductor) -> None:
    await stop.wait()
    outbound.wake()
    conductor.wake()


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser(prog="broker-relay", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    export = commands.add_parser("anchors", help="write what Kafka has kept of the audit seals")
    export.add_argument("--out", type=Path, required=True, help="a new NDJSON file")
    arguments = parser.parse_args()
    if arguments.command == "anchors":
        # An auditor has no business with the database here.
        kafka_only = Settings(database_url=SecretStr("postgresql://not-used"))
        try:
            count = asyncio.run(anchors.export(kafka_only, arguments.out))
        except (KafkaError, OSError, LookupError) as error:
            sys.exit(f"no anchors: {error}")
        sys.stderr.write(f"{count} anchors\n")
        return
    try:
        settings = config.load()
    except (ValidationError, SettingsError) as error:
        sys.exit(f"settings: {error}")
    logs.configure(level=settings.log_level, json=settings.log_json)
    try:
        with (
            metrics.served(
                settings.metrics_host,
                settings.metrics_port,
                natively=settings.metrics_native,
                version=assets.version(),
                schema=migrate.head(),
            ),
            exported("relay"),
        ):
            uvloop.run(serve(settings))
    except (PoolerError, ExtraMissingError) as error:
        sys.exit(f"{error.title}. {error}")


if __name__ == "__main__":
    main()

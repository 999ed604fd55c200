"""`broker-worker`: does the work of tools whose adapter runs on the worker.

Stops on SIGTERM or SIGINT: takes no more, finishes what runs within a grace, and gives the rest
back. `broker config` lists its settings.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from random import SystemRandom

import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError

from adapters.credentials import CredentialSources
from adapters.kinds import Adapters
from app import assets, logs
from app.config.worker import WorkerSettings
from app.traces import tracing as traces
from app.traces.exports import exported
from app.traces.tracing import ExtraMissingError
from worker import metrics
from worker.api import BlockingApi, ResultsApi
from worker.calls import Calls
from worker.intake import Intake
from worker.kafka import keep, listen_to_control
from worker.leases import Leases
from worker.reports import Reporter

logger = logging.getLogger("worker")

STOP_S = 20.0
"""Beyond the grace: what an adapter takes to end its work, and its last word to be heard."""


async def serve(settings: WorkerSettings) -> None:
    """Run until a signal."""
    worker = f"worker:{socket.gethostname()}:{os.getpid()}"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    api = ResultsApi(settings)
    adapters = Adapters(credentials=CredentialSources(vault=settings.worker_vault))
    reporter = Reporter(api, random=SystemRandom())
    tracing = traces.opened(settings, service="worker")
    calls = Calls(adapters, reporter, result_bytes_max=settings.result_bytes_max, tracing=tracing)
    leases = Leases(
        BlockingApi(settings),
        cancelled=calls.cancel,
        lost=calls.lose,
        in_loop=loop.call_soon_threadsafe,
    )
    calls.keep_leases(leases)
    intake = Intake(settings, reporter, calls, worker=worker)

    def heard(message: dict[str, object]) -> None:
        if message["action"] == "cancel":
            calls.cancel(str(message["correlation_id"]), str(message["adapter"]))

    leases.start()
    logger.info("worker started", extra={"worker": worker, "kafka": settings.kafka_bootstrap})
    try:
        async with reporter.running():
            listening = asyncio.create_task(listen_to_control(settings, heard, client_id=worker))
            reading = asyncio.create_task(keep(intake.read))
            claiming = asyncio.create_task(intake.claim())
            await stop.wait()
            logger.info("worker stops", extra={"running": len(intake.tasks)})
            intake.stop()
            await _ended(reading, claiming)
            await drain(intake, calls, grace_s=settings.worker_grace_s)
            await _ended(listening)
    finally:
        await asyncio.to_thread(leases.stop)
        await adapters.close()
        await api.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    logger.info("worker stopped")


async def drain(intake: Intake, calls: Calls, *, grace_s: float) -> None:
    """Let what runs end, for as long as the grace is; then end it, and give it back."""
    if intake.tasks:
        await asyncio.wait(intake.tasks, timeout=grace_s)
    if intake.tasks:
        logger.warning("calls are given back", extra={"calls": len(intake.tasks)})
        calls.drain()
        await asyncio.wait(intake.tasks, timeout=STOP_S)
    for task in intake.tasks:
        task.cancel()
    await asyncio.gather(*intake.tasks, return_exceptions=True)


async def _ended(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


def main() -> None:
    """The console script."""
    argparse.ArgumentParser(prog="broker-worker", description=__doc__).parse_args()
    try:
        settings = WorkerSettings()
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
            ),
            exported("worker"),
        ):
            uvloop.run(serve(settings))
    except ExtraMissingError as error:
        sys.exit(f"{error.title}. {error}")


if __name__ == "__main__":
    main()

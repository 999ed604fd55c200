"""Leases are renewed by a thread: not even an event loop that stands still loses them."""

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr

from app.config.worker import WorkerSettings
from tests.support.stack import wait_for
from worker.api import BlockingApi
from worker.leases import Lease, Leases

BAD = "what the app cannot keep"


class App(ThreadingHTTPServer):
    """Answers as the results API does, as a test wants it to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.said: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.beaten = threading.Event()
        self.away = False


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        app = self.server
        assert isinstance(app, App)
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        fine = {"status": 200, "ok": True, "cancel_requested": False}
        found = [fine | app.answers.get(one["correlation_id"], {}) for one in body["items"]]
        data = json.dumps({"items": found}).encode()
        bad = any(one.get("message") == BAD for one in body["items"])
        self.send_response(503 if app.away else 422 if bad else 200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        app.said += body["items"]
        if len(app.said) >= 3:
            app.beaten.set()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 its name there
        """Nothing is logged."""


@contextmanager
def served() -> Generator[App]:
    app = App()
    thread = threading.Thread(target=app.serve_forever)
    thread.start()
    try:
        yield app
    finally:
        app.shutdown()
        thread.join()
        app.server_close()


def lease(name: str, lease_s: float = 0.6) -> Lease:
    return Lease(correlation_id=name, attempt=2, lease_s=lease_s)


def leases_of(app: App, told: list[tuple[str, str]]) -> Leases:
    settings = WorkerSettings(url=f"http://127.0.0.1:{app.server_address[1]}", token=SecretStr("t"))
    return Leases(
        BlockingApi(settings),
        cancelled=lambda name: told.append(("cancelled", name)),
        lost=lambda name: told.append(("lost", name)),
        in_loop=asyncio.get_running_loop().call_soon_threadsafe,
    )


@pytest.mark.guarantee("worker:leases")
async def test_a_blocked_event_loop_loses_no_lease() -> None:
    with served() as app:
        kept = leases_of(app, [])
        kept.start()
        kept.add(lease("a"))
        assert app.beaten.wait(5), "the loop stands still here, and the lease is renewed"
        kept.remove("a")
        await asyncio.to_thread(kept.stop)
    assert {one["correlation_id"] for one in app.said} == {"a"}
    assert {(one["op"], one["attempt"], one["stage"]) for one in app.said} == {
        ("progress", 2, "running")
    }


async def test_what_the_app_answers_to_a_renewal_reaches_the_call() -> None:
    told: list[tuple[str, str]] = []
    with served() as app:
        app.answers = {"b": {"cancel_requested": True}, "c": {"status": 409}}
        kept = leases_of(app, told)
        kept.start()
        for name in "abc":
            kept.add(lease(name))

        async def both() -> bool:
            again = [one["correlation_id"] for one in app.said].count("a") >= 3
            return again and len(set(told)) == 2

        assert await wait_for(both)
        await asyncio.to_thread(kept.stop)
    assert set(told) == {("cancelled", "b"), ("lost", "c")}
    assert [one["correlation_id"] for one in app.said].count("c") == 1, "it is not ours any more"


async def test_an_app_that_is_away_is_asked_again_and_the_work_goes_on() -> None:
    told: list[tuple[str, str]] = []
    with served() as app:
        app.away = True
        kept = leases_of(app, told)
        kept.start()
        kept.add(lease("a", lease_s=0.3))
        await asyncio.to_thread(app.beaten.wait, 5)
        app.away = False
        said = len(app.said)

        async def heard() -> bool:
            return len(app.said) >= said + 2

        assert await wait_for(heard)
        await asyncio.to_thread(kept.stop)
    assert told == []


async def test_words_that_the_app_does_not_take_cost_no_call_its_lease() -> None:
    with served() as app:
        kept = leases_of(app, [])
        kept.start()
        for name in "ab":
            one = lease(name)
            one.progress = {"stage": "running"} | ({"message": BAD} if name == "a" else {})
            kept.add(one)

        async def renewed() -> bool:
            taken = [one["correlation_id"] for one in app.said if "message" not in one]
            return taken.count("a") >= 1 and taken.count("b") >= 2

        assert await wait_for(renewed)
        await asyncio.to_thread(kept.stop)

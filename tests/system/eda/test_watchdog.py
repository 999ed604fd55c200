"""The watchdog in the real ansible-rulebook: it ends a process whose rules are dead, no other."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from devstack.eda import EmbeddedEda
from tests.support.rulebooks import PLAYBOOKS, rulebook_with
from tests.support.stack import wait_for
from tests.system.eda.conftest import (
    COLLECTIONS,
    UPSTREAM,
    Publish,
    Send,
    make_topic,
    rulebook_process,
)
from tests.system.eda.results_api import ResultsApi
from tests.system.eda.test_through_eda import ended

pytestmark = [pytest.mark.eda, pytest.mark.timeout(180)]

SOURCES = COLLECTIONS / "ansible_collections/mcpbroker/eda/extensions/eda/plugins/event_source"
QUICK = {"watchdog_every_s": 0.25, "watchdog_answer_s": 3}


@pytest.fixture
async def topic(kafka_bootstrap: str) -> str:
    return await make_topic(kafka_bootstrap)


@pytest.fixture
def send(publish: Publish, topic: str) -> Send:
    return partial(publish, topic)


@contextmanager
def running(
    home: Path,
    topic: str,
    kafka: str,
    api: ResultsApi,
    *,
    rulebook: Path | None = None,
    **more: Any,
) -> Generator[EmbeddedEda]:
    eda = rulebook_process(
        home, kafka, api, topic, workspace=home, variables=QUICK, rulebook=rulebook, **more
    )
    eda.start()
    try:
        yield eda
    finally:
        eda.stop()


def unfiltered(home: Path) -> Path:
    """The rulebook on upstream's source, without our filter behind it."""
    path = rulebook_with({}, home / "unfiltered.yml")
    [ruleset] = yaml.safe_load(path.read_text())
    options = {"host": "{{ kafka_host }}", "port": "{{ kafka_port }}", "offset": "earliest"}
    options |= {"topic": "{{ commands_topic }}", "group_id": "{{ kafka_group }}"}
    ruleset["sources"][0] = {"name": "commands", "ansible.eda.kafka": options}
    path.write_text(yaml.safe_dump([ruleset]))
    return path


@pytest.mark.guarantee("eda:watchdog")
async def test_a_process_whose_rules_are_dead_ends_and_says_why(
    kafka_bootstrap: str, topic: str, api: ResultsApi, send: Send, tmp_path: Path
) -> None:
    env = {"ANSIBLE_COLLECTIONS_PATH": f"{COLLECTIONS}{os.pathsep}{UPSTREAM}"}
    book = unfiltered(tmp_path)
    with running(tmp_path, topic, kafka_bootstrap, api, rulebook=book, env=env) as eda:
        before = api.command("probe", "echo", {"text": "before"})
        await send(before)
        await ended(api, before)
        # Some answered probes later: what ends the process is not the first of them.
        await asyncio.sleep(2)
        assert eda.process.running
        await send(api.command("probe", "echo", {"": "dpath takes no empty key"}))

        async def ends() -> bool:
            return not eda.process.running

        await wait_for(ends, 20)
        log = eda.process.log.read_text()
    assert "its source_reader_task has ended): this process ends now" in log


@pytest.mark.guarantee("eda:watchdog")
async def test_a_process_that_answers_or_is_full_goes_on_and_runs_nothing_for_it(
    kafka_bootstrap: str, topic: str, api: ResultsApi, send: Send, tmp_path: Path
) -> None:
    book = rulebook_with({"slow": PLAYBOOKS / "slow.yml"}, tmp_path / "slow-book.yml")
    full = {"actions_max": 1, "env": {"EDA_MAX_BACK_PRESSURE_TIMEOUT": "2"}}
    with running(tmp_path, topic, kafka_bootstrap, api, rulebook=book, **full) as eda:
        # Some probes, and longer than an answer may take.
        await asyncio.sleep(5)
        assert eda.process.running
        log = eda.process.log.read_text()
        assert "PLAY [" not in log
        slow, waiting = api.command("slow", "x", {}), api.command("probe", "echo", {"text": "x"})
        await send(slow)

        async def claimed() -> bool:
            return api.words(slow) == ["claim"]

        await wait_for(claimed, 40)
        await send(waiting)
        await asyncio.sleep(6)
        assert eda.process.running, "full is not dead"
        assert api.words(waiting) == []
        (pids,) = tmp_path.glob("slow.*/pids")
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
        assert (await ended(api, waiting))[-1] == "result"
        assert eda.process.running


BLOCKED = """
import asyncio, runpy, sys, time
main = runpy.run_path(sys.argv[1])["main"]

async def block():
    watching = asyncio.create_task(main(asyncio.Queue(1), {"blocked_s": 1}))
    await asyncio.sleep(0.1)
    time.sleep(60)

asyncio.run(block())
"""


@pytest.mark.guarantee("eda:watchdog")
def test_an_event_loop_that_is_held_up_ends_the_process_and_shows_where() -> None:
    argv: list[Any] = [sys.executable, "-c", BLOCKED, SOURCES / "watchdog.py"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "Timeout (0:00:01)!" in done.stderr
    assert "in block" in done.stderr

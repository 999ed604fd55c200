"""Child processes: ready or a reason, ended for certain, never left behind."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devstack.process import NotReadyError, Process
from tests.support.stack import alive, wait_for

# The child leads a session of its own, as a PostgreSQL backend does: no group kill reaches it.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
CHILD = re.compile(rb"child (\d+)")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Process]:
    process = Process("parent", [sys.executable, "-c", PARENT], log=tmp_path / "log")
    process.start()
    process.wait_ready(lambda: process.logged(CHILD), timeout_s=10)
    yield process
    process.kill()


def child_of(process: Process) -> int:
    found = CHILD.search(process.log.read_bytes())
    assert found is not None
    return int(found[1])


async def gone(pid: int) -> bool:
    return not alive(pid)


@pytest.mark.parametrize("end", [Process.stop, Process.kill])
async def test_its_children_end_with_it_whatever_their_session(
    started: Process, end: Callable[[Process], None]
) -> None:
    child = child_of(started)
    assert os.getsid(child) != os.getsid(started.pid)
    end(started)
    assert not started.running
    await wait_for(lambda: gone(child))


@pytest.mark.skipif(sys.platform != "linux", reason="found by /proc")
@pytest.mark.parametrize("end", [Process.stop, Process.kill])
async def test_its_children_end_even_when_it_ended_before_them(
    started: Process, end: Callable[[Process], None]
) -> None:
    child = child_of(started)
    started.kill_leader()
    assert alive(child)
    end(started)
    await wait_for(lambda: gone(child))


def test_one_that_does_not_hear_is_killed(tmp_path: Path) -> None:
    process = Process("deaf", [sys.executable, "-c", DEAF], log=tmp_path / "log")
    process.start()
    process.wait_ready(lambda: process.logged(re.compile(b"deaf")), timeout_s=10)
    process.stop(timeout_s=0.2)
    assert not process.running


def test_one_that_ends_at_its_start_is_not_ready_and_shows_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no such disk')"]
    process = Process("short", argv, log=tmp_path / "log")
    process.start()
    with pytest.raises(NotReadyError, match="no such disk"):
        process.wait_ready(lambda: False, timeout_s=10)


def test_the_log_of_an_earlier_start_does_not_count(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("child 1\n")
    process = Process("quiet", [sys.executable, "-c", ""], log=log)
    process.start()
    assert not process.logged(CHILD)
    process.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own service")
async def test_it_ends_when_its_starter_is_killed(tmp_path: Path) -> None:
    starter = f"""
import os, signal, sys
from pathlib import Path
from devstack.process import Process
process = Process("orphan", [sys.executable, "-c", "import time; time.sleep(600)"],
                  log=Path({str(tmp_path / "log")!r}))
process.start()
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", starter, stdout=PIPE)
    printed, _ = await run.communicate()
    assert run.returncode == -signal.SIGKILL
    await wait_for(lambda: gone(int(printed)))

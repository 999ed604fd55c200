"""A child process with a log file, a bounded readiness and no survivors."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

PR_SET_PDEATHSIG: Final = 1
STOP_S: Final = 15.0
POLL_S: Final = 0.05
LIBC: Final = ctypes.CDLL(None)
# In the environment of a process and so of all below it: one whose parent has ended is found too.
MARK: Final = "MCP_BROKER_DEVSTACK_PROCESS"
SWEEPS: Final = 20


class NotReadyError(RuntimeError):
    """A process ended, or its time ran out, before it was ready; has the end of its log."""


class Process:
    """One server process and the children it may start.

    On Linux it gets its stop signal when its starter dies, unless it is detached. The kernel
    takes the starting thread for the parent, so start it from one that lives as long.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        stop_signal: int = signal.SIGTERM,
        detached: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = [str(part) for part in argv]
        mark = uuid4().hex
        self._mark = f"{MARK}={mark}"
        self._env = {**(os.environ if env is None else env), MARK: mark}
        self._cwd = cwd
        self._user = user
        self._stop_signal = stop_signal
        self._detached = detached
        self._log_start = 0
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The leader's pid; its group has the same number."""
        assert self._popen is not None, "started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the leader runs."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it; output is appended to the log."""
        assert not self.running
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(  # noqa: S603 argv is ours, no shell
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user is not None else None,
                # A stack left running (`make up`) outlives its starter.
                preexec_fn=None if self._detached else self._die_with_parent,  # noqa: PLW1509
            )

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait for a condition.

        Raises:
            NotReadyError: the process ended, or the time did.
        """
        until = time.monotonic() + timeout_s
        while not ready():
            if not self.running:
                raise NotReadyError(f"{self.name} ended at its start:\n{self.tail()}")
            if time.monotonic() > until:
                raise NotReadyError(f"{self.name} not ready in {timeout_s} s:\n{self.tail()}")
            time.sleep(POLL_S)

    def logged(self, pattern: re.Pattern[bytes]) -> bool:
        """Whether its log, since its last start, has a match."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return pattern.search(log.read()) is not None

    def tail(self, lines: int = 30) -> str:
        """The end of the log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def send(self, number: int) -> None:
        """Signal the leader."""
        if self.running:
            os.kill(self.pid, number)

    def stop(self, *, timeout_s: float = STOP_S) -> None:
        """Ask it to end, then kill whatever is left of it and its children."""
        if self._popen is None:
            return
        below = descendants(self.pid) if self.running else []
        self.send(self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        self.kill()
        kill_each(below)

    def kill(self) -> None:
        """Kill -9 it and every process below it, at once, as the machine's crash would."""
        if self._popen is None:
            return
        if self.running:
            # Stopped first, or it could start a child that the list misses. A group's kill is not
            # enough: PostgreSQL's backends and ansible-runner's playbooks lead their own sessions.
            self.send(signal.SIGSTOP)
            below = descendants(self.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            kill_each(below)
            self._popen.wait()
        kill_marked(self._mark)

    def kill_leader(self) -> None:
        """Kill -9 the leader only, as a crash would; its children live on."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def _die_with_parent(self) -> None:
        # Between fork and exec, so no more than one call.
        if sys.platform == "linux":
            LIBC.prctl(PR_SET_PDEATHSIG, self._stop_signal)


def descendants(pid: int) -> list[int]:
    """The processes below one, whatever their group or session."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


def _parents() -> list[tuple[int, int]]:
    """Every process and its parent."""
    found: list[tuple[int, int]] = []
    if sys.platform == "linux":
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                # pid (any name) state parent …
                after_name = stat.read_text(errors="replace").rpartition(")")[2].split()
                found.append((int(stat.parent.name), int(after_name[1])))
        return found
    listed = subprocess.run(
        ["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        child, parent = line.split()
        found.append((int(child), int(parent)))
    return found


def mark_of(pid: int) -> str | None:
    """What marks a process of ours and all that it started (`NAME=value`); on Linux only."""
    with contextlib.suppress(OSError):
        for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if pair.startswith(f"{MARK}=".encode()):
                return pair.decode()
    return None


def kill_marked(mark: str) -> None:
    """Kill -9 whatever carries the mark, until a look finds nothing."""
    for _ in range(SWEEPS):
        found: list[int] = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
                if mark.encode() in environ.read_bytes():
                    found.append(int(environ.parent.name))
        if not found:
            return
        kill_each(found)
        time.sleep(POLL_S)


def kill_each(pids: Sequence[int]) -> None:
    """Kill -9 those of these processes that are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

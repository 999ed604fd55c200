"""A child process with its own group, a log file, a bounded readiness and no survivors."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
STOP_S: Final = 15.0
POLL_S: Final = 0.05
LIBC: Final = ctypes.CDLL(None)


class NotReadyError(RuntimeError):
    """A process ended, or its time ran out, before it was ready; has the end of its log."""


def _die_with_parent() -> None:
    # Between fork and exec, so no more than one call.
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One server process and the children it may start."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        detached: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = [str(part) for part in argv]
        self._env = dict(os.environ if env is None else env)
        self._cwd = cwd
        self._user = user
        self._detached = detached
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
                preexec_fn=None if self._detached else _die_with_parent,  # noqa: PLW1509
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

    def tail(self, lines: int = 30) -> str:
        """The end of the log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def send(self, number: int) -> None:
        """Signal the leader."""
        if self.running:
            os.kill(self.pid, number)

    def stop(self, *, number: int = signal.SIGTERM, timeout_s: float = STOP_S) -> None:
        """Ask it to end, then kill whatever is left of its group."""
        if self._popen is None:
            return
        self.send(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """Kill -9 the whole group, at once."""
        if self._popen is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def kill_leader(self) -> None:
        """Kill -9 the leader only, as a crash would; its children live on."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

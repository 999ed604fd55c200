"""Run a program for a command: keeps the lease while it works, ends it when the broker asks.

The program leads a process group of its own, which is ended as a whole: when the command is
cancelled or its attempt is over, and when the play that started it is gone.

Its options are told in plugins/modules/run.py, which ansible-doc reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.mcpbroker.eda.plugins.module_utils import results
from ansible_collections.mcpbroker.eda.plugins.module_utils.connection import Broker

POLL_S = 0.2
BEAT_MAX_S = 10.0
BEAT_MIN_S = 0.5
END_S = 5.0
STDERR_BYTES = 4000
CREDENTIALS = re.compile(r"//[^/@\s]*@")


class ActionModule(ActionBase):
    """Run it under the lease."""

    def run(self, tmp=None, task_vars=None):
        """Run it to its end; a failing program fails the task, with the end of its stderr."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        command = results.command_of(
            results.envelope_of(args, task_vars or {}), Broker(args)
        )
        if command is None:
            raise AnsibleActionFail("this event is no command: it has no correlation_id")
        if None in args["argv"]:
            raise AnsibleActionFail("a part of argv is not known: the claim did not say it")
        beat_s = max(BEAT_MIN_S, min(BEAT_MAX_S, float(args.get("lease_s") or 60) / 3))
        env = {**os.environ, **{name: str(text) for name, text in (args.get("env") or {}).items()}}
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(_stdin(args.get("stdin")))
            given.seek(0)
            process = subprocess.Popen(
                [str(part) for part in args["argv"]],
                stdin=given,
                stdout=out,
                stderr=err,
                env=env,
                start_new_session=True,
            )
            try:
                self._watch(process, err, command, args, beat_s)
            finally:
                _end(process)
            stderr = _tail(err)
            if process.returncode != 0:
                raise AnsibleActionFail(stderr.strip() or f"it ended with {process.returncode}")
            out.seek(0)
            stdout = out.read().decode(errors="replace")
        return result | {"changed": True, "rc": 0, "stdout": stdout, "stderr": stderr}

    def _watch(self, process, err, command, args, beat_s):
        play = os.getppid()
        said = time.monotonic()
        while process.poll() is None:
            if os.getppid() != play:
                raise AnsibleActionFail("the play is gone")
            if time.monotonic() - said >= beat_s:
                said = time.monotonic()
                lines = re.split(r"[\r\n]+", _tail(err).strip())
                go_on = results.say_progress(
                    command, stage=args["stage"], percent=args.get("percent"), message=lines[-1]
                )
                if not go_on:
                    raise AnsibleActionFail("cancelled: the broker asked this run to stop")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)


def _stdin(given) -> bytes:
    if given is None:
        return b""
    return (given if isinstance(given, str) else json.dumps(given)).encode(errors="replace")


def _tail(err) -> str:
    """The end of what was written to a file that is still written to, without credentials."""
    size = os.fstat(err.fileno()).st_size
    data = os.pread(err.fileno(), STDERR_BYTES, max(0, size - STDERR_BYTES))
    return CREDENTIALS.sub("//", data.decode(errors="replace"))


def _end(process) -> None:
    """Leave nothing of the program's group behind."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

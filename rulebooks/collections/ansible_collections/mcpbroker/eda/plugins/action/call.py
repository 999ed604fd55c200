"""Claim a command, do its work by a kind of adapter as the catalog says, and report what came.

`broker-worker` as an action: for tools whose `adapter:` has `runs_on: eda`.

Its options are told in plugins/modules/call.py, which ansible-doc reads.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.mcpbroker.eda.plugins.module_utils import results
from ansible_collections.mcpbroker.eda.plugins.module_utils.asked import Asked
from ansible_collections.mcpbroker.eda.plugins.module_utils.connection import Broker
from ansible_collections.mcpbroker.eda.plugins.module_utils.results import Command


class ActionModule(ActionBase):
    """One attempt, from its claim to its report; it returns nothing of the caller's."""

    def run(self, tmp=None, task_vars=None):
        """Work on the event's command; a claim that is refused is no failure."""
        result = super().run(tmp, task_vars) | {"changed": False}
        asked = Asked(task_vars or {}, self._task._uuid)
        try:
            return result | self._worked(task_vars or {}, asked)
        finally:
            asked.send(self._display.warning)

    def _worked(self, task_vars: dict, asked: Asked) -> dict:
        args = self._task.args
        command = results.command_of(results.envelope_of(args, task_vars), Broker(args), asked)
        if command is None:
            raise AnsibleActionFail("this event is no command: it has no correlation_id")
        began = time.monotonic()
        run = _run_name(task_vars)
        proceed, granted = results.say_claim(command, run)
        if not proceed:
            reason = granted.get("reason") or granted.get("detail")
            return {"proceed": False, "reason": reason}
        late = time.monotonic() - began > granted["lease_s"] / 2
        try:
            from ansible_collections.mcpbroker.eda.plugins.module_utils import calling
        except ImportError as error:
            return self._not_here(command, error)
        with self._heard_logging():
            outcome = calling.work(granted, command, _vault(args), run=run, late=late)
        result = {"proceed": True, "changed": True}
        if outcome is None:
            return result | {"outcome": "lost"}
        status, answer = calling.report(command, outcome)
        if status != 200 and status not in results.STALE:
            raise AnsibleActionFail(f"the broker answered {status}: {answer.get('detail')}")
        result |= {"state": answer.get("state"), "outcome": calling.named(outcome)}
        if result["outcome"] == "done":
            return result
        fail = boolean(args.get("fail_job", "awx_job_id" in task_vars))
        words = f"the call ended with {outcome.code}; its command has the rest"
        return result | {"code": outcome.code} | ({"failed": True, "msg": words} if fail else {})

    def _not_here(self, command: Command, error: ImportError) -> dict:
        """Nothing was begun: the command may find a Python that has the library."""
        words = f"Ansible's Python has not the broker's package, or not whole: {error}"
        results.say_error(command, code="misconfigured", message=words, retryable=True)
        return {"failed": True, "proceed": True, "msg": words}

    @contextlib.contextmanager
    def _heard_logging(self):
        """What the library logs goes to ansible's display: the process has no other output."""
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self._display.warning(record.getMessage())
        logger = logging.getLogger("adapters")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def _run_name(task_vars: dict) -> str:
    """By it mcpbroker.eda.control finds the job, or this process, and tells it to end."""
    job = task_vars.get("awx_job_id")
    if job:
        return f"job:{job}:{uuid.uuid4()}"
    started = ""
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return f"call:{os.uname().nodename}:{os.getpid()}:{started}:{uuid.uuid4()}"


def _vault(args: dict) -> dict | None:
    given = args.get("vault") or os.environ.get("MCP_BROKER_WORKER_VAULT")
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError:
        raise AnsibleActionFail("the vault is no JSON object") from None

"""Speak to the MCP broker's results API from a playbook.

An action plugin, not a module: nothing is copied to a host, so a word costs milliseconds.

Its options are told in plugins/modules/broker.py, which ansible-doc reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.mcpbroker.eda.plugins.module_utils import results
from ansible_collections.mcpbroker.eda.plugins.module_utils.connection import Broker
from ansible_collections.mcpbroker.eda.plugins.module_utils.results import Command

SAID = ("tenant_id", "user_id", "tool", "method", "ordering_key", "saga_id", "saga_step")


class ActionModule(ActionBase):
    """One word to the broker."""

    def run(self, tmp=None, task_vars=None):
        """Say it; a refusal of progress fails the task, so that a play's rescue ends the work."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        envelope = results.envelope_of(args, task_vars or {})
        command = results.command_of(envelope, Broker(args))
        op = args.get("op")
        if command is None:
            if op != "reject":
                raise AnsibleActionFail("this event is no command: it has no correlation_id")
            # A record that is no command has nobody to answer to.
            return result | {"changed": False, "rejected": False, "record": repr(envelope)[:1000]}
        match op:
            case "claim":
                try:
                    run = args.get("run") or _run_name(task_vars or {})
                    return result | _claim(command, run)
                except AnsibleActionFail as error:
                    # A claim's task has no_log, as its answer holds the arguments; this has none.
                    self._display.error(f"the claim failed: {error.message}")
                    raise
            case "progress":
                percent, message = args.get("percent"), args.get("message")
                go_on = results.say_progress(
                    command, stage=args["stage"], percent=percent, message=message
                )
                if not go_on:
                    raise AnsibleActionFail("cancelled: the broker asked this run to stop")
                return result | {"changed": False}
            case "result":
                status, answer, refused = results.say_result(command, args.get("result"))
                told = _told(status, answer) | {"kept": refused is None}
                return result | told | ({"warnings": [refused]} if refused else {})
            case "error":
                retryable = _boolean("retryable", args.get("retryable", True))
                status, answer = results.say_error(
                    command, code="adapter_error", message=args["message"], retryable=retryable
                )
                fail = _boolean("fail_job", args.get("fail_job", "awx_job_id" in (task_vars or {})))
                told = _told(status, answer)
                return result | told | ({"failed": True, "msg": args["message"]} if fail else {})
            case "reject":
                named = [command.named.get(name, "?") for name in ("tool", "method")]
                reason = args.get("message") or f"no rule takes {'.'.join(named)}"
                body = {"reason": results.clean(reason, 500), "attempt": command.attempt}
                patience_s = results.LAST_WORD_S
                told = _told(*results.post(command, "/reject", body, patience_s=patience_s))
                return result | told | {"rejected": True}
        raise AnsibleActionFail(f"no such op: {op}")


def _run_name(task_vars: dict) -> str:
    """A name of this run alone, by which mcpbroker.eda.control can find and end it."""
    job = task_vars.get("awx_job_id")  # given by the controller to each of its jobs
    if job:
        return f"job:{job}:{uuid.uuid4()}"
    play = os.getppid()
    started = ""
    with contextlib.suppress(OSError):  # elsewhere than on Linux
        started = Path(f"/proc/{play}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.uname().nodename}:{play}:{started}:{uuid.uuid4()}"


def _boolean(name: str, value: object) -> bool:
    try:
        return boolean(value)
    except TypeError:
        raise AnsibleActionFail(f"{name} is true or false, not {value!r}") from None


def _claim(command: Command, run: object) -> dict:
    granted, answer = results.say_claim(command, str(run))
    args = answer.get("args") or {}
    said = {name: answer.get(name) for name in SAID}
    return {
        "changed": False,
        "proceed": granted,
        "reason": answer.get("reason") or answer.get("detail"),
        "args": args,
        "args_json": json.dumps(args),
        "lease_s": answer.get("lease_s"),
        "deadline_at": answer.get("deadline_at"),
        "env": _env(answer),
        "command": said | {"correlation_id": command.correlation_id, "attempt": command.attempt},
    }


def _env(answer: dict) -> dict:
    """By TRACEPARENT, what does the work tells of it in the call's trace."""
    traceparent = answer.get("traceparent")
    return {} if traceparent is None else {"TRACEPARENT": traceparent}


def _told(status: int, answer: dict) -> dict:
    """How a last word was taken. One that comes too late is the broker's to record, no error."""
    if status != 200 and status not in results.STALE:
        raise AnsibleActionFail(f"the broker answered {status}: {answer.get('detail')}")
    return {"changed": True, "status": status, "state": answer.get("state")}

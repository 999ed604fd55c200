"""Speak to the MCP broker's results API from a playbook.

An action plugin, not a module: nothing is copied to a host, so a word costs milliseconds.
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
from ansible_collections.mcpbroker.eda.plugins.module_utils.results import Command

DOCUMENTATION = """
options:
  op: {choices: [claim, progress, result, error, reject], required: true}
  command: {description: The envelope; by default the event's body or the variable mcp_command.}
  run: {description: "claim: names this run; made once a run by default."}
  stage: {description: "progress: what is being done.", required: for progress}
  percent: {description: "progress: how far it is."}
  message: {description: "progress, error, reject: words for people."}
  retryable: {description: "error: false where another try cannot help.", default: true}
  result: {description: "result: what the caller gets."}
"""

EXAMPLES = """
- mcpbroker.eda.broker: {op: claim}
  register: claimed
  no_log: true   # its answer holds the arguments
"""

RETURN = """
proceed: {description: "claim: whether to go on."}
args: {description: "claim: the command's arguments, as data that is never templated."}
args_json: {description: "claim: the same as JSON, for programs; whole, where Ansible strips from
  args what begins with _ansible_."}
command:
  description: >-
    claim: correlation_id and attempt, and as the broker says them tenant_id, user_id, tool, method,
    ordering_key, saga_id, saga_step.
kept: {description: "result: whether it could be kept; else the command has ended in an error."}
lease_s: {description: "claim: how long this run may be silent."}
deadline_at: {description: "claim: when the caller's deadline is."}
reason: {description: "claim: why not to go on."}
"""


SAID = ("tenant_id", "user_id", "tool", "method", "ordering_key", "saga_id", "saga_step")


class ActionModule(ActionBase):
    """One word to the broker."""

    def run(self, tmp=None, task_vars=None):
        """Say it; a refusal of progress fails the task, so that a play's rescue ends the work."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        envelope = results.envelope_of(args, task_vars or {})
        command = results.command_of(envelope)
        op = args.get("op")
        if command is None:
            if op != "reject":
                raise AnsibleActionFail("this event is no command: it has no correlation_id")
            # A record that is no command has nobody to answer to.
            return result | {"changed": False, "rejected": False, "record": repr(envelope)[:1000]}
        match op:
            case "claim":
                return result | _claim(command, args.get("run") or _run_name(task_vars or {}))
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
                return result | _told(status, answer)
            case "reject":
                named = [command.named.get(name, "?") for name in ("tool", "method")]
                reason = args.get("message") or f"no rule takes {'.'.join(named)}"
                body = {"reason": results.clean(reason, 500), "attempt": command.attempt}
                path = f"{command.path}/reject"
                told = _told(*results.post(path, body, patience_s=results.LAST_WORD_S))
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
    # One name in all tries of this claim: the broker tells a lost answer from a redelivery by it.
    body = {"attempt": command.attempt, "adapter": str(run)[:200]} | command.named
    status, answer = results.post(f"{command.path}/claim", body, patience_s=results.CLAIM_S)
    if status != 200 and status not in results.STALE:
        raise AnsibleActionFail(f"claim answered {status}: {answer.get('detail')}")
    args = answer.get("args") or {}
    said = {name: answer.get(name) for name in SAID}
    return {
        "changed": False,
        "proceed": status == 200 and answer.get("proceed") is True,
        "reason": answer.get("reason") or answer.get("detail") or str(status),
        "args": args,
        "args_json": json.dumps(args),
        "lease_s": answer.get("lease_s"),
        "deadline_at": answer.get("deadline_at"),
        "command": said | {"correlation_id": command.correlation_id, "attempt": command.attempt},
    }


def _told(status: int, answer: dict) -> dict:
    """How a last word was taken. One that comes too late is the broker's to record, no error."""
    if status != 200 and status not in results.STALE:
        raise AnsibleActionFail(f"the broker answered {status}: {answer.get('detail')}")
    return {"changed": True, "status": status, "state": answer.get("state")}

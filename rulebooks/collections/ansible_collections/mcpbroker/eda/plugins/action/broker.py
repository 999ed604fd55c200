"""Speak to the MCP broker's results API from a playbook, in the controller's own process.

An action plugin, not a module: nothing is copied or forked, so a report costs milliseconds.
The address and token come from the environment (MCP_BROKER_URL, and MCP_BROKER_TOKEN or
MCP_BROKER_TOKEN_FILE), so that no play, log or event ever holds them.
"""

from __future__ import annotations

import json
import os
import random
import time
import urllib.error
import uuid

from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url
from ansible.plugins.action import ActionBase

DOCUMENTATION = """
options:
  op: {choices: [claim, progress, result, error, reject], required: true}
  command: {description: The event's body, the command's envelope., required: true}
  stage: {description: progress}
  percent: {description: progress}
  message: {description: "progress, error, reject"}
  result: {description: result}
  run: {description: "claim: names this run; made once a run by default"}
"""

TRIES = 8
TIMEOUT_S = 15
TRANSIENT = {408, 429, 500, 502, 503, 504}

RUN = f"{os.uname().nodename}:{os.getppid()}:{uuid.uuid4()}"


def _token() -> str:
    path = os.environ.get("MCP_BROKER_TOKEN_FILE")
    if path:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    token = os.environ.get("MCP_BROKER_TOKEN")
    if not token:
        raise AnsibleActionFail("set MCP_BROKER_TOKEN or MCP_BROKER_TOKEN_FILE for the adapters")
    return token


def _post(path: str, body: dict) -> tuple[int, dict]:
    """POST, again while the broker is away: every route of the results API may be repeated."""
    url = os.environ.get("MCP_BROKER_URL", "http://127.0.0.1:8080").rstrip("/") + path
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_token()}"}
    for attempt in range(1, TRIES + 1):
        try:
            answer = open_url(
                url,
                data=json.dumps(body).encode(),
                headers=headers,
                method="POST",
                timeout=TIMEOUT_S,
                use_proxy=False,
            )
            return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code not in TRANSIENT or attempt == TRIES:
                try:
                    return error.code, json.loads(error.read() or b"{}")
                except ValueError:
                    return error.code, {}
        except OSError as error:
            if attempt == TRIES:
                raise AnsibleActionFail(f"the broker does not answer: {error}") from error
        time.sleep(min(10.0, 0.2 * 2**attempt) * (0.5 + random.random() / 2))
    raise AssertionError("unreachable")


class ActionModule(ActionBase):
    """One word to the broker."""

    def run(self, tmp=None, task_vars=None):
        """Send it; `claim` and `progress` return the broker's answer."""
        result = super().run(tmp, task_vars)
        args = self._task.args
        command = args["command"]
        base = f"/results/{command['correlation_id']}"
        attempt = int(command.get("attempt") or 1)
        match args["op"]:
            case "claim":
                run = args.get("run") or RUN
                status, answer = _post(f"{base}/claim", {"attempt": attempt, "adapter": run})
                if status not in {200, 404, 409, 410}:
                    raise AnsibleActionFail(f"claim answered {status}: {answer.get('detail')}")
                result.update(changed=False, proceed=bool(answer.get("proceed")))
                # The arguments may be secret: this task is to be run with no_log.
                result.update(args=answer.get("args"), reason=answer.get("reason", status))
                return result
            case "progress":
                body = {"stage": args["stage"], "attempt": attempt}
                if args.get("percent") is not None:
                    body["percent"] = float(args["percent"])
                if args.get("message"):
                    body["message"] = str(args["message"])[:2000]
                status, answer = _post(f"{base}/progress", body)
                asked = bool(answer.get("cancel_requested")) or status in {404, 409, 410}
                if asked:
                    raise AnsibleActionFail("cancelled: the broker asked this run to stop")
                result.update(changed=False, cancel_requested=asked)
                return result
            case "result":
                body = {"status": "ok", "result": args.get("result"), "attempt": attempt}
            case "error":
                error = {"code": "adapter_error", "message": str(args["message"])[:4000]}
                body = {"status": "error", "error": error, "attempt": attempt}
            case "reject":
                base, body = f"{base}/reject", {"reason": str(args["message"])[:500]}
            case other:
                raise AnsibleActionFail(f"no such op: {other}")
        status, answer = _post(base, body)
        result.update(changed=True, status=status, answer=answer)
        if status not in {200, 404, 409, 410}:
            raise AnsibleActionFail(f"{args['op']} answered {status}: {answer.get('detail')}")
        return result

"""The results API's client: what an adapter's plays say to the broker, and for which command.

It runs in ansible's own process; `connection.py` says how the broker is reached.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
import urllib.error
import uuid
from dataclasses import dataclass

from ansible.errors import AnsibleActionFail
from ansible.module_utils.urls import open_url
from ansible_collections.mcpbroker.eda.plugins.module_utils.asked import Asked
from ansible_collections.mcpbroker.eda.plugins.module_utils.connection import Broker, NoTokenError

TIMEOUT_S = 15
PAUSE_MAX_S = 10.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
STALE = frozenset({404, 409, 410})
"""Answers that say: this attempt is not, or no longer, yours to work on."""
NOT_KEPT = frozenset({400, 413, 422})
"""Answers that say: what was sent can't be kept, however often it is sent."""
# The app's own default; where it has another, so should its adapters.
RESULT_BYTES_MAX = 4 << 20

# How long a word is tried while the broker is away. A lost claim costs nothing, as the broker
# sends the command again; a lost result costs the work that was done for it.
CLAIM_S = 60.0
PROGRESS_S = 5.0
LAST_WORD_S = 900.0


@dataclass(frozen=True)
class Command:
    """What is taken from an event: which command and attempt it says it is, and nothing else.

    What the event says of tenant, tool and method goes with the claim, which the broker refuses
    where it is not so. What an adapter acts on is the claim's answer.
    """

    correlation_id: str
    attempt: int
    named: dict[str, str]
    broker: Broker
    asked: Asked | None = None

    @property
    def path(self) -> str:
        """Its place in the results API."""
        return f"/results/{self.correlation_id}"


def envelope_of(args: dict, task_vars: dict) -> object:
    """The event's body, as plain data that nothing takes for a template.

    Read from the variables as they are: a value that came with the event is never templated
    here, whoever sent it and whatever is in it.
    """
    found = args.get("command")
    if found is None:
        found = task_vars.get("mcp_command")  # an automation controller's job
    if found is None:
        event = task_vars.get("ansible_eda") or {}
        found = (event.get("event") or {}).get("body")
    # Through JSON and back: ansible marks strings of extra variables as trusted templates, and
    # a mark would go along into this action's result.
    return json.loads(json.dumps(found, default=str))


def command_of(envelope: object, broker: Broker, asked: Asked | None = None) -> Command | None:
    """The command of an envelope, whose words `asked` tells; None where it is none."""
    if not isinstance(envelope, dict):
        return None
    try:
        correlation_id = str(uuid.UUID(envelope.get("correlation_id")))
        attempt = int(envelope.get("attempt") or 1)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
    named = {name: envelope.get(name) for name in ("tenant_id", "tool", "method")}
    if not all(isinstance(text, str) for text in named.values()):
        named = {}  # they come together or not at all
    return Command(correlation_id, attempt, named, broker, asked)


def clean(text: object, chars_max: int) -> str:
    """Words that the broker can keep: a program may write any bytes."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", str(text))[:chars_max]


def post(command: Command, route: str, body: dict, *, patience_s: float) -> tuple[int, dict]:
    """POST to a route below the command's, again while the broker is away.

    Every route of the results API may be repeated.

    Raises:
        AnsibleActionFail: no answer within the patience.
        ValueError, TypeError, RecursionError: the body is no JSON.
    """
    data = json.dumps(body, allow_nan=False).encode()
    telling = contextlib.nullcontext({"traceparent": None})
    if command.asked is not None:
        telling = command.asked.word(command.broker.url, route)
    with telling as word:
        return _post(command, route, data, word, patience_s=patience_s)


def _post(
    command: Command, route: str, data: bytes, word: dict, *, patience_s: float
) -> tuple[int, dict]:
    url = command.broker.url + command.path + route
    until = time.monotonic() + patience_s
    pause_s = 0.25
    while True:
        status, answer, problem = _try(command.broker, url, data, word["traceparent"])
        word["status"], word["tries"] = status, word.get("tries", 0) + 1
        # A token file is renewed while we run; a token as such is not.
        renewable = status == 401 and command.broker.token_file
        if status is not None and status not in TRANSIENT and not renewable:
            return status, answer
        if time.monotonic() + pause_s > until:
            if status is not None:
                return status, answer
            raise AnsibleActionFail(f"the broker does not answer: {problem}")
        time.sleep(pause_s * (0.5 + random.random() / 2))
        pause_s = min(PAUSE_MAX_S, pause_s * 2)


def _try(
    broker: Broker, url: str, data: bytes, traceparent: str | None
) -> tuple[int | None, dict, object]:
    try:
        token = broker.bearer()
    except NoTokenError as error:
        raise AnsibleActionFail(str(error)) from None
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    if traceparent is not None:
        headers["traceparent"] = traceparent
    try:
        answer = open_url(
            url,
            data=data,
            headers=headers,
            method="POST",
            timeout=TIMEOUT_S,
            use_proxy=False,
            follow_redirects="no",  # the token is for this address only
            ca_path=broker.ca_file,
            client_cert=broker.client_cert,
            client_key=broker.client_key,
        )
        return answer.status, _json(answer.read()), None
    except urllib.error.HTTPError as error:
        return error.code, _json(error.read()), error
    except OSError as error:
        return None, {}, error


def _json(data: bytes) -> dict:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def say_claim(command: Command, run: str) -> tuple[bool, dict]:
    """Claim the attempt for a run: whether it is granted, and the answer.

    One name in all tries of a claim: the broker tells a lost answer from a redelivery by it.

    Raises:
        AnsibleActionFail: the broker refuses this adapter, or does not answer.
    """
    body = {"attempt": command.attempt, "adapter": run[:200]} | command.named
    status, answer = post(command, "/claim", body, patience_s=CLAIM_S)
    if status != 200 and status not in STALE:
        raise AnsibleActionFail(f"claim answered {status}: {answer.get('detail')}")
    return status == 200 and answer.get("proceed") is True, answer


def say_progress(command: Command, *, stage: str, percent: object, message: object) -> bool:
    """Say how far it is, which renews the lease; whether to go on.

    A broker that is away, or does not take these words, stops no work: the claim's fence decides
    about the result later.

    Raises:
        AnsibleActionFail: the broker refuses this adapter, or percent is no number.
    """
    body: dict = {"stage": clean(stage, 100), "attempt": command.attempt}
    if percent is not None:
        try:
            body["percent"] = min(100.0, max(0.0, float(percent)))
        except (TypeError, ValueError):
            raise AnsibleActionFail(f"percent is a number from 0 to 100, not {percent!r}") from None
    if message:
        body["message"] = clean(message, 2000)
    try:
        status, answer = post(command, "/progress", body, patience_s=PROGRESS_S)
    except AnsibleActionFail:
        return True
    if status in STALE or answer.get("cancel_requested"):
        return False
    if status in TRANSIENT or status in NOT_KEPT or status < 300:
        return True
    raise AnsibleActionFail(f"progress answered {status}: {answer.get('detail')}")


def say_result(command: Command, result: object) -> tuple[int, dict, str | None]:
    """Report a result: status, answer, and why it could not be kept, if so.

    One that cannot be kept ends the command at once, as an error that no repetition mends: the work
    is done, and would be done again.
    """
    refused = None
    try:
        body = {"status": "ok", "result": result, "attempt": command.attempt}
        size = len(json.dumps(result, allow_nan=False).encode())
        if size > result_bytes_max():
            refused = f"it has {size} bytes, more than the {result_bytes_max()} of a result"
        else:
            status, answer = post(command, "", body, patience_s=LAST_WORD_S)
            if status in NOT_KEPT:
                refused = f"the broker answered {status}: {answer.get('detail')}"
    except (TypeError, ValueError, RecursionError) as error:
        refused = f"it is no JSON: {error}"
    if refused is None:
        return status, answer, None
    message = clean(f"The work was done, and its result cannot be kept: {refused}", 4000)
    status, answer = say_error(command, code="result_not_kept", message=message, retryable=False)
    return status, answer, message


def result_bytes_max() -> int:
    """The most that the broker keeps."""
    return int(os.environ.get("MCP_BROKER_RESULT_BYTES_MAX") or RESULT_BYTES_MAX)


def say_error(
    command: Command, *, code: str, message: object, retryable: bool
) -> tuple[int, dict]:
    """Report an error: status and answer."""
    error: dict = {"code": code, "message": clean(message, 4000)}
    if not retryable:
        error["retryable"] = False
    body = {"status": "error", "error": error, "attempt": command.attempt}
    return post(command, "", body, patience_s=LAST_WORD_S)

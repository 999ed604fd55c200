"""inert.py: gives rules what Java, YAML and Ansible carry of a command, and no more.

The envelope on Kafka is whole. Between Kafka and a play an event goes through dpath, JSON in Java,
Jinja, YAML and Ansible's variables, and each has data that it refuses or alters (tests tell
which): an argument of one caller's could stop the rules for all. So each field of the body goes on
as it was sent or not at all, and `left_out` names those that do not. What an adapter acts on comes
with its claim's answer, where the arguments are whole.

Behind mcpbroker.eda.kafka it is built in. Behind another source:

    sources:
      - ansible.eda.kafka: {…}
        filters:
          - mcpbroker.eda.inert: {arguments: false}
"""

import math
import re
from typing import Any

DOCUMENTATION = """
short_description: Let through what Java, YAML and Ansible carry
description:
  - Each field of a command goes on whole, or is left out and named.
author: The MCP broker authors (@mcpbroker)
options:
  arguments:
    description:
      - Whether a command's arguments come along. Without them they are in no extra variable and in
        no audit of EDA's; a claim brings them.
    type: bool
    default: true
notes:
  - Never raises, whatever comes, as an exception in a filter ends its source.
"""

# Ansible reads YAML at 20,000 values a second, and ansible-rulebook writes it on its event loop.
VALUES_MAX = 2_000
CHARS_MAX = 64 * 1024
# yaml.dump ends at 400 levels, in the middle of whatever else is on the stack.
DEPTH_MAX = 32
INTEGER_MAX = 2**63
FIELDS_MAX = 64
SHOWN_CHARS = 200

FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
KEY_CHARS_MAX = 255
# Halves of a surrogate pair, NUL, and what is above U+FFFF: Java's strings come back from jpy as
# pairs of halves, which no YAML reader takes.
UNCARRIED = re.compile("[\x00\ud800-\udfff\U00010000-\U0010ffff]")
# ansible-rulebook passes events to playbooks as extra variables, and ansible-playbook trusts those:
# a caller's "{{ lookup('pipe', …) }}" would be run on this machine.
TEMPLATE_MARKS = ("{{", "{%", "{#", "#jinja2:")
ARGUMENTS = frozenset({"args", "compensation"})
# What rules and the dead letters' playbook name a command by.
NAMES = frozenset({"correlation_id", "tenant_id", "tool", "method"})


def main(event: Any, arguments: bool = True) -> dict[str, Any]:
    """The event with what can be carried of it."""
    given = event if isinstance(event, dict) else {}
    body = given.get("body")
    if not arguments and isinstance(body, dict) and "correlation_id" in body:
        body = {name: value for name, value in body.items() if name not in ARGUMENTS}
    return {"body": body_of(body), "meta": _meta(given.get("meta"))}


def body_of(body: Any) -> dict[str, Any]:
    """The fields of a body that can be carried, each whole, and the names of the others."""
    if not isinstance(body, dict) or not body:
        return {"unparseable": shown(body)}
    found: dict[str, Any] = {}
    left_out: list[str] = []
    fields = [(name, value) for name, value in body.items() if _is_field(name)]
    for name, value in fields[:FIELDS_MAX]:
        if carried(value) and (name not in NAMES or isinstance(value, str)):
            found[name] = value
        else:
            left_out.append(name)
    return found | {"left_out": sorted(left_out)} if left_out else found or {"unparseable": "{}"}


def _is_field(name: Any) -> bool:
    return isinstance(name, str) and FIELD.fullmatch(name) is not None and name != "left_out"


def carried(value: Any) -> bool:
    """Whether a value comes through whole; looks at no more than the bounds allow."""
    values, chars = 0, 0
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        values += 1
        if isinstance(one, str):
            chars += len(one)
        elif isinstance(one, (dict, list)):
            # Before it is unfolded: what is listed here is bounded too.
            if depth >= DEPTH_MAX or values + len(waiting) + len(one) > VALUES_MAX:
                return False
            if isinstance(one, dict):
                if not all(map(_is_key, one)):
                    return False
                chars += sum(map(len, one))
            inner = one.values() if isinstance(one, dict) else one
            waiting += [(item, depth + 1) for item in inner]
        if chars > CHARS_MAX or not _is_plain(one):
            return False
    return True


def _is_plain(value: Any) -> bool:
    match value:
        case str():
            return not UNCARRIED.search(value) and not any(mark in value for mark in TEMPLATE_MARKS)
        case bool() | None | dict() | list():
            return True
        case int():
            return -INTEGER_MAX <= value < INTEGER_MAX
        case float():
            return math.isfinite(value)
    return False


def _is_key(key: Any) -> bool:
    # dpath refuses empty keys; Ansible takes those that begin with _ansible_ for its own.
    named = isinstance(key, str) and 0 < len(key) <= KEY_CHARS_MAX
    return named and not key.startswith("_ansible_") and _is_plain(key)


def _meta(meta: Any) -> dict[str, Any]:
    given = meta if isinstance(meta, dict) else {}
    headers = given.get("headers")
    return _parts(given) | {"headers": _parts(headers if isinstance(headers, dict) else {})}


def _parts(given: dict[Any, Any]) -> dict[str, Any]:
    parts = list(given.items())[:FIELDS_MAX]
    return {name: value for name, value in parts if _is_key(name) and carried(value)}


def shown(value: Any) -> str:
    """The beginning of what is no command, for people: printable ASCII that is no template."""
    if not isinstance(value, (str, bytes)):
        return type(value).__name__
    return ascii(value[:SHOWN_CHARS]).replace("{", "\\x7b")

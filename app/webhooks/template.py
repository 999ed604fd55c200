"""An operator's own form of a body: JSON in whose strings named fields stand, and nothing else.

`{{command_id}}` becomes the value's text inside the string that it stands in. The template is data,
not text, so that a value can end neither its string nor its object.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

FIELDS: Final = (
    "id",
    "type",
    "timestamp",
    "tenant",
    "command_id",
    "saga_id",
    "tool",
    "method",
    "state",
    "link",
)
BYTES_MAX: Final = 8 << 10
"""Of a template's JSON text."""
DEPTH_MAX: Final = 16
FIELD: Final = re.compile(r"\{\{([^{}]*)\}\}")


class BadTemplateError(ValueError):
    """It cannot be filled; its text says why."""


def check(template: Any) -> None:
    """Look at a template before it is kept.

    Raises:
        BadTemplateError: it is not of the form that is filled.
    """
    if not isinstance(template, dict) or not template:
        raise BadTemplateError("it is no JSON object with a member")
    if len(orjson.dumps(template)) > BYTES_MAX:
        raise BadTemplateError(f"its JSON has more than {BYTES_MAX} bytes")
    _walk(template, 1)


def _walk(value: Any, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise BadTemplateError(f"it is nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, dict):
        for name, inner in value.items():
            if "{{" in name:
                raise BadTemplateError("a member's name has a field: only values are filled")
            _walk(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, depth + 1)
    elif isinstance(value, str):
        _known(value)


def _known(text: str) -> None:
    for name in FIELD.findall(text):
        if name.strip() not in FIELDS:
            known = ", ".join(FIELDS)
            raise BadTemplateError(f"{{{{{name[:40]}}}}} is no field; there are {known}")
    if "{{" in FIELD.sub("", text):
        raise BadTemplateError("a {{ has no }} after it")


def fill(template: Any, values: Mapping[str, str]) -> Any:
    """The body of a checked template; a field that this event has not is empty."""
    if isinstance(template, dict):
        return {name: fill(inner, values) for name, inner in template.items()}
    if isinstance(template, list):
        return [fill(inner, values) for inner in template]
    if isinstance(template, str):
        return FIELD.sub(lambda found: values.get(found[1].strip(), ""), template)
    return template

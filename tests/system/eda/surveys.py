"""What a controller finds wrong with a survey's answers.

As `_survey_element_validation` of AWX (https://github.com/ansible/awx, awx/main/models/mixins.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STORED = "$encrypted$"
TEXTS = ("text", "textarea", "password")


def problems(survey: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> list[str]:
    """Of a launch's variables, by AWX's words."""
    return [one for question in survey for one in _wrong(question, given)]


def _wrong(question: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    name, kind = question["variable"], question["type"]
    if kind == "password" and given.get(name) == STORED:
        if question.get("default") is None and question.get("required"):
            yield f"'{name}' value missing"
        return
    if name not in given:
        if question.get("required"):
            yield f"'{name}' value missing"
        return
    value = given[name]
    match kind:
        case "multiselect":
            if type(value) is not list:
                yield f"'{name}' value is expected to be a list."
                return
            wrong = [one for one in value if one not in choices(question)]
            yield from (f"Value {one} for '{name}' expected to be one of …" for one in wrong)
        case "multiplechoice":
            if value not in choices(question):
                yield f"Value {value} for '{name}' expected to be one of …"
        case _:
            yield from _outside(question, name, kind, value)


def _outside(question: Mapping[str, Any], name: str, kind: str, value: Any) -> Iterator[str]:
    types = {"integer": (int,), "float": (int, float)}.get(kind, (str,))
    if type(value) not in types:
        yield f"Value {value} for '{name}' expected to be a {kind}."
        return
    size = len(value) if kind in TEXTS else value
    low, high = question.get("min"), question.get("max")
    if low not in ("", None) and size < float(low):
        yield f"'{name}' value {value} is too small (must be at least {low})."
    if high not in ("", None) and size > float(high):
        yield f"'{name}' value {value} is too large (must be no more than {high})."


def choices(question: Mapping[str, Any]) -> list[str]:
    """As a list, whichever way they are kept."""
    given: Any = question["choices"]
    return [one for one in given.splitlines() if one.strip()] if isinstance(given, str) else given

"""A schema's pattern costs the app no more than the text's length, wherever it is used."""

import time
from typing import Any

import pytest
from pydantic import ValidationError

from app.catalog.cache import validator_of
from app.catalog.file import ToolEntry
from app.catalog.redaction import REDACTED, redact

SLOW = "^(a+)+$"
TEXT = "a" * 5000 + "!"


def entry(**schema: Any) -> ToolEntry:
    return ToolEntry.model_validate(
        {
            "tool": "t",
            "method": "m",
            "description": "d",
            "input_schema": {"type": "object", **schema},
        }
    )


def test_no_pattern_is_slow_in_redaction_or_in_the_check() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "patternProperties": {SLOW: {"x-sensitive": True}},
        "additionalProperties": {"type": "string", "pattern": SLOW},
    }
    began = time.monotonic()
    assert redact({"a" * 30: 1, TEXT: "shown"}, schema) == {"a" * 30: REDACTED, TEXT: "shown"}
    assert not validator_of(schema).is_valid({"b": TEXT})
    assert time.monotonic() - began < 1


def test_patterns_are_those_of_json_schema_in_redaction_too() -> None:
    schema = {
        "type": "object",
        "patternProperties": {r"^\p{L}+$": {"x-sensitive": True}},
        "additionalProperties": {},
    }
    assert redact({"ключ": 1, "7": 2}, schema) == {"ключ": REDACTED, "7": 2}


def test_a_pattern_that_nobody_can_read_hides_what_it_may_mean() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"x-sensitive": True}},
        "patternProperties": {"(?=x)": {}},
        "additionalProperties": {},
    }
    assert redact({"x": 1}, schema) == {"x": REDACTED}


@pytest.mark.parametrize("pattern", ["(?=x)", r"(a)\1", "[", "(?<!x)y"])
def test_a_pattern_of_another_engine_is_refused_when_the_catalog_is_applied(pattern: str) -> None:
    for schema in (
        {"properties": {"a": {"type": "string", "pattern": pattern}}},
        {"patternProperties": {pattern: {}}},
    ):
        with pytest.raises(ValidationError, match="not served"):
            entry(**schema)
    assert entry(properties={"a": {"pattern": r"^\p{L}+$"}})

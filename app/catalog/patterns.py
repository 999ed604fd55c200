"""One engine for the regular expressions of schemas: its time grows with the text's length only.

The validator's and redaction's patterns are the same, read alike. It has no look-around and no
back references, which the catalog refuses when it is applied.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs

LINEAR: Final = jsonschema_rs.RegexOptions()
BACKTRACKS_MAX: Final = 10_000


def validator_for(schema: Mapping[str, Any], **options: Any) -> Any:
    """A validator of a schema whose patterns this engine has.

    Raises:
        jsonschema_rs.ValidationError, ValueError: it is no schema, or one has a pattern that
            this engine has not.
    """
    return jsonschema_rs.validator_for(dict(schema), pattern_options=LINEAR, **options)


def kept_validator_for(schema: Mapping[str, Any], **options: Any) -> Any:
    """As `validator_for`; a schema of an older catalog has what it had, within a bound."""
    try:
        return validator_for(schema, **options)
    except (jsonschema_rs.ValidationError, ValueError):
        bounded = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACKS_MAX)
        return jsonschema_rs.validator_for(dict(schema), pattern_options=bounded, **options)


def matches(pattern: str, text: str) -> bool | None:
    """Whether a pattern is found in a text; None where this engine has not that pattern."""
    found = _compiled(pattern)
    return None if found is None else found.is_valid(text)


@lru_cache(maxsize=1000)
def _compiled(pattern: str) -> Any:
    try:
        return validator_for({"pattern": pattern})
    except (jsonschema_rs.ValidationError, ValueError):
        return None

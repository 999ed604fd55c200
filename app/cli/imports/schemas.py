"""A source's JSON Schema as the catalog takes it."""

import re
from collections.abc import Mapping
from typing import Any, Final

from app.catalog.patterns import matches
from app.catalog.redaction import MARK

OF_NAMES: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
VALUES: Final = ("enum", "const", "default", "example", "examples", "required")
SECRETS: Final = re.compile(
    r"(.*[_-])?(password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|authorization)",
    re.IGNORECASE,
)


class Taken:
    """A schema without what does not count or is not taken, and with marks on what looks secret."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.patterns = 0
        """Left out: our engine has no look-around. The source looks at them itself."""
        self.secrets: list[str] = []
        self.schema: dict[str, Any] = self._schema(schema, "")

    def _schema(self, value: Any, name: str) -> Any:
        if isinstance(value, list):
            return [self._schema(one, name) for one in value]
        if not isinstance(value, Mapping):
            return value
        made: dict[str, Any] = {}
        for word, one in value.items():
            if word.startswith("x-"):  # what a source says in our words, such as x-mcp-header
                continue
            if word == "pattern" and isinstance(one, str) and matches(one, "") is None:
                self.patterns += 1
            elif word in OF_NAMES and isinstance(one, Mapping):
                made[word] = {key: self._schema(inner, key) for key, inner in one.items()}
            else:
                made[word] = one if word in VALUES else self._schema(one, "")
        if _is_secret(made, name):
            made[MARK] = True
            self.secrets.append(name)
        return made


def _is_secret(schema: Mapping[str, Any], name: str) -> bool:
    if schema.get("type") != "string":
        return False
    return schema.get("format") == "password" or SECRETS.fullmatch(name) is not None

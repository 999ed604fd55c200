"""An OpenAPI document, and what its references lead to within it."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

STEPS_MAX: Final = 50


class OpenApiError(ValueError):
    """The document, or an operation of it, cannot be worked with."""


class Document:
    """OpenAPI 3.0, 3.1 or 3.2, read already."""

    def __init__(self, value: Any) -> None:
        version = value.get("openapi") if isinstance(value, Mapping) else None
        if not isinstance(version, str) or not version.startswith("3."):
            raise OpenApiError("this is no OpenAPI 3 document (Swagger 2 has to be converted)")
        self.value: Mapping[str, Any] = value
        self.version = version

    def schema(self, name: str) -> Any:
        """One of components/schemas, by its name in a reference."""
        return self.at(f"#/components/schemas/{name}")

    def resolved(self, value: Any) -> Any:
        """What a reference leads to, if this is one."""
        for _ in range(STEPS_MAX):
            if not isinstance(value, Mapping) or not isinstance(value.get("$ref"), str):
                return value
            value = self.at(value["$ref"])
        raise OpenApiError("references lead in a circle")

    def at(self, reference: str) -> Any:
        """The value at a reference within the document.

        Raises:
            OpenApiError: it leads elsewhere, or nowhere.
        """
        if not reference.startswith("#/"):
            raise OpenApiError(f"{reference[:200]} leads out of the document: bundle it into one")
        found: Any = self.value
        for part in reference.removeprefix("#/").split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                raise OpenApiError(f"the document has nothing at {reference[:200]}")
            found = found[name]
        return found

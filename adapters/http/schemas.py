"""OpenAPI's schemas as JSON Schema 2020-12: 3.1 has them already, 3.0 has its own dialect."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from adapters.http.pointers import Document, OpenApiError

SCHEMAS: Final = "#/components/schemas/"
DEFS: Final = "#/$defs/"
ANNOTATIONS: Final = ("discriminator", "xml", "externalDocs", "example")
IN_PLACE: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
OF_NAMES: Final = ("properties", "patternProperties", "$defs", "dependentSchemas")
ONE: Final = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
)
BINARY: Final = ("binary", "byte")


class Schemas:
    """Schemas of one document; what they refer to is collected as `$defs`."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._old = document.version.startswith("3.0")

    def whole(self, schema: Any) -> dict[str, Any]:
        """A schema that stands alone.

        Raises:
            OpenApiError: it refers to what the document does not have.
        """
        made = self.converted(schema)
        found: dict[str, Any] = {}
        waiting = list(_references(made))
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = self.converted(self._document.schema(name))
                waiting += _references(found[name])
        if not found:
            return made
        return {**made, "$defs": {name: found[name] for name in sorted(found)}}

    def converted(self, schema: Any) -> Any:
        """The same in JSON Schema's words, its references by name."""
        if not isinstance(schema, Mapping):
            return schema
        made = {name: one for name, one in schema.items() if name not in ANNOTATIONS}
        if isinstance(made.get("$ref"), str):
            made["$ref"] = self._reference(made["$ref"])
        for name in IN_PLACE:
            if isinstance(made.get(name), list):
                made[name] = [self.converted(one) for one in made[name]]
        for name in OF_NAMES:
            if isinstance(made.get(name), Mapping):
                made[name] = {key: self.converted(one) for key, one in made[name].items()}
        for name in ONE:
            if name in made:
                made[name] = self.converted(made[name])
        if is_binary(schema):
            made = {key: one for key, one in made.items() if key not in ("format", "maxLength")}
            made |= {"type": "string", "contentEncoding": "base64"}
        return _newer(made) if self._old else made

    def _reference(self, reference: str) -> str:
        if not reference.startswith(SCHEMAS):
            raise OpenApiError(f"{reference} is outside of the document's components/schemas")
        name = reference.removeprefix(SCHEMAS)
        self._document.schema(name)
        return DEFS + name


def is_binary(schema: Any) -> bool:
    """Whether a value is bytes: a file's, or a body's."""
    if not isinstance(schema, Mapping):
        return False
    media = schema.get("contentMediaType", "")
    return schema.get("format") in BINARY or media == "application/octet-stream"


def _newer(made: dict[str, Any]) -> dict[str, Any]:
    """What 3.0 says otherwise: null, and bounds that are excluded."""
    for bound, excluded in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if made.get(excluded) is True and bound in made:
            made[excluded] = made.pop(bound)
        elif isinstance(made.get(excluded), bool):
            del made[excluded]
    if made.pop("nullable", False):
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
        if isinstance(made.get("type"), str):
            made["type"] = [made["type"], "null"]
        elif "type" not in made and made:
            return {"anyOf": [made, {"type": "null"}]}
    return made


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith(DEFS):
            yield reference.removeprefix(DEFS)
        for one in schema.values():
            yield from _references(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from _references(one)

"""The catalog as a reviewed YAML file: parsed, checked whole, and put in force at once."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

import jsonschema_rs
import orjson
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog import store as catalog_store
from app.catalog.patterns import validator_for
from app.catalog.policy import APPROVE, Tool, ToolPolicy, wire_name
from app.contract import Method, Name
from app.errors import BadRequestError

SHIPPED: Final = Path(__file__).with_name("catalog.yml")

FORM_TYPES: Final = frozenset({"string", "number", "integer", "boolean"})
FORM_WORDS: Final = frozenset(
    {"type", "title", "description", "default", "enum", "format"}
    | {"minLength", "maxLength", "minimum", "maximum"}
)
"""What MCP lets a form's field have (elicitation); it is for nothing that is sensitive."""
WireName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ToolEntry(BaseModel):
    """One tool of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Name
    method: Method
    name: WireName | None = None
    title: str = ""
    description: str = Field(min_length=1)
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] = Field(default_factory=dict)
    policy: ToolPolicy = ToolPolicy()
    in_flight_max: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def schemas(self) -> Self:
        """Both schemas are JSON Schema, and describe objects."""
        for label in ("input_schema", "output_schema"):
            schema: Mapping[str, Any] | None = getattr(self, label)
            if schema is None:
                continue
            if schema.get("type") != "object":
                raise ValueError(f"{label} must have type: object")
            try:
                validator_for(schema)
            except (jsonschema_rs.ValidationError, ValueError) as error:
                raise ValueError(
                    f"{label} is not a JSON Schema, or has a pattern with look-around or a back"
                    f" reference, which are not served: {error}"
                ) from error
        return self

    @model_validator(mode="after")
    def questions(self) -> Self:
        """Each asks once for arguments that a form can take, and that may be shown."""
        properties: Mapping[str, Any] = self.input_schema.get("properties", {})
        keys = [one.key for one in self.policy.asks]
        names = [name for one in self.policy.asks for name in one.arguments]
        if len({*keys, APPROVE}) <= len(keys) or len(set(names)) < len(names):
            raise ValueError(f"asks: keys and arguments stand there once; {APPROVE!r} is taken")
        for name in names:
            schema = properties.get(name, {})
            if schema.get("type") not in FORM_TYPES or not schema.keys() <= FORM_WORDS:
                raise ValueError(f"asks: {name!r} is no argument that a form can take")
        return self

    def made(self) -> Tool:
        """As the kernel knows it."""
        digest = hashlib.sha256(
            orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        )
        return Tool(
            tool=self.tool,
            method=self.method,
            name=self.name or wire_name(self.tool, self.method),
            title=self.title,
            description=self.description,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
            annotations=self.annotations,
            policy=self.policy,
            digest=digest.digest(),
        )


class CatalogFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[ToolEntry, ...]

    @model_validator(mode="after")
    def distinct(self) -> Self:
        """No tool and no wire name stands in it twice."""
        names = [entry.made().name for entry in self.tools]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"tools with the same name: {', '.join(doubled)}")
        return self


def parse(path: Path) -> CatalogFile:
    """Read and check the file.

    Raises:
        BadRequestError: it is not of the catalog's shape, and where.
    """
    try:
        return CatalogFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise BadRequestError(f"{path}: {error}") from error


async def apply(engine: AsyncEngine, file: CatalogFile, *, prune: bool) -> dict[str, list[str]]:
    """Put the file in force in one transaction, as the owner's role; returns what changed.

    `prune` takes tools out of service that the file does not have.
    """
    applied: list[str] = []
    async with engine.begin() as conn:
        for entry in file.tools:
            made = entry.made()
            if await catalog_store.put_tool(conn, made, in_flight_max=entry.in_flight_max):
                applied.append(made.name)
        names = [entry.made().name for entry in file.tools]
        retired = await catalog_store.retire_others(conn, names) if prune else []
        await catalog_store.announce(conn)
    return {"applied": applied, "retired": retired}

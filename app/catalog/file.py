"""The catalog as a reviewed YAML file: parsed, checked whole, and put in force at once."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

import jsonschema_rs
import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters import kinds
from adapters.targets import Target, TargetRefusedError
from app import yaml_values
from app.catalog import store as catalog_store
from app.catalog.adapter import PLAYBOOK, ToolAdapter
from app.catalog.patterns import validator_for
from app.catalog.policy import APPROVE, Tool, ToolPolicy, hides_key, wire_name
from app.catalog.redaction import MARK, PERSONAL, hides
from app.catalog.rules import Rule, RuleError
from app.contract import Method, Name, Tenant
from app.errors import PROBLEMS_MAX, BadRequestError, cut
from app.json_values import DEPTH_MAX, JsonRefusedError, checked
from app.yaml_values import YamlRefusedError

SHIPPED: Final = Path(__file__).with_name("catalog.yml")
BYTES_MAX: Final = 4 << 20
"""Of a file; a thousand tools have 2 MB."""

SECONDS_MAX: Final = 10 * 365 * 86_400

HEADER: Final = "x-mcp-header"
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
    adapter: ToolAdapter | None = None
    in_flight_max: int | None = Field(default=None, gt=0, le=2**31 - 1)

    @model_validator(mode="after")
    def times(self) -> Self:
        """No time of the policy is one that PostgreSQL does not know.

        Only here: what an earlier release has let in force is read as it is.
        """
        parts = {"retry": self.policy.retry, "approval": self.policy.approval}
        timed = {"policy": self.policy} | {f"policy.{name}": one for name, one in parts.items()}
        for label, found in timed.items():
            for name in type(found).model_fields:
                value = getattr(found, name)
                if name.endswith("_s") and value is not None and not value <= SECONDS_MAX:
                    raise ValueError(f"{label}.{name} is over {SECONDS_MAX}, ten years")
        return self

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
                    f" reference, which are not served: {cut(str(error))}"
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
            schema: Any = properties.get(name)
            plain = isinstance(schema, dict) and schema.keys() <= FORM_WORDS
            if not plain or schema.get("type") not in FORM_TYPES:
                raise ValueError(f"asks: {name!r} is no argument that a form can take")
        return self

    @model_validator(mode="after")
    def ruled(self) -> Self:
        """A rule of an approval names arguments that there are: a slip would ask for every call."""
        when = self.policy.approval.when
        if when is not None:
            try:
                Rule.compile(when, known=self.input_schema.get("properties", {}))
            except RuleError as error:
                raise ValueError(f"approval.when: {error}") from error
        return self

    @model_validator(mode="after")
    def ordered(self) -> Self:
        """An ordering key is of arguments that there are: a slip would order nothing."""
        known = self.input_schema.get("properties", {})
        for name in self.policy.ordering_key:
            if name not in known:
                raise ValueError(f"ordering_key: {name!r} is no argument of the input_schema")
        return self

    @model_validator(mode="after")
    def in_the_clear(self) -> Self:
        """No sensitive argument is copied to where it is shown: ordering keys, HTTP's headers."""
        for name in self.policy.ordering_key:
            if hides(self.input_schema, [name]):
                raise ValueError(
                    f"ordering_key: {name!r} is {MARK}, or may hold what is, and a key is shown, in"
                    f" Kafka too; order by another argument ({PERSONAL}: true has it hashed)"
                )
        for path in _mirrored(self.input_schema):
            if hides(self.input_schema, path):
                raise ValueError(f"{'/'.join(path)} is {MARK} and cannot be {HEADER} as well")
        return self

    def made(self) -> Tool:
        """As the kernel knows it."""
        entry = self.model_dump(mode="json")
        if self.adapter is None:  # as the digests of releases that knew of none
            del entry["adapter"]
        digest = hashlib.sha256(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
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
            adapter=self.adapter,
        )


def _mirrored(schema: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The arguments that MCP clients copy into headers of their requests."""
    if not isinstance(schema, Mapping):
        return
    if HEADER in schema:
        yield at
    inner = schema.get("properties")
    if isinstance(inner, Mapping):
        for name, one in inner.items():
            yield from _mirrored(one, (*at, name))


class TargetEntry(BaseModel):
    """One target of the file: where adapters work, and by which credential, which it only names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    tenant: Tenant | None = Field(default=None, description="Whose it is; every tenant's.")
    kind: Name
    address: str = Field(default="", max_length=2000)
    tls: dict[str, Any] = Field(default_factory=dict)
    credential: dict[str, Any] | None = None
    limits: dict[str, Any] = Field(default_factory=dict)
    allowed_hosts: tuple[str, ...] = ()
    takes_key: bool = False
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def shaped(self) -> Self:
        """It is of its shape, and holds no secret."""
        if "@" in urlsplit(self.address).netloc:
            raise ValueError("address: a user or password is no part of it; name a credential")
        try:
            self.made()
        except TargetRefusedError as error:
            raise ValueError(str(error)) from error
        return self

    def made(self) -> Target:
        """As adapters know it."""
        return Target.read(self.model_dump())


class CatalogFile(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[ToolEntry, ...] = ()
    targets: tuple[TargetEntry, ...] = ()

    @model_validator(mode="after")
    def distinct(self) -> Self:
        """No tool, no wire name and no target stands in it twice."""
        names = [entry.made().name for entry in self.tools]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"tools with the same name: {', '.join(doubled)}")
        places = [(entry.name, entry.tenant) for entry in self.targets]
        twice = sorted({name for name, tenant in places if places.count((name, tenant)) > 1})
        if twice:
            raise ValueError(f"targets with the same name: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def meet(self) -> Self:
        """Methods that share a tool's keys make them alike, or no key would be shared."""
        shared: dict[str, set[int]] = {}
        hidden: dict[str, set[bool]] = {}
        for entry in self.tools:
            policy = entry.policy
            if policy.ordering_key and policy.ordering_scope == "tool":
                shared.setdefault(entry.tool, set()).add(len(policy.ordering_key))
                hidden.setdefault(entry.tool, set()).add(hides_key(policy, entry.input_schema))
        for tool, counts in shared.items():
            if len(counts) > 1:
                raise ValueError(
                    f"ordering_key: the methods of {tool!r} name different numbers of arguments,"
                    " so they would share no key; align them, or say ordering_scope: method"
                )
        for tool, answers in hidden.items():
            if len(answers) > 1:
                raise ValueError(
                    f"ordering_key: some methods of {tool!r} have it hashed ({PERSONAL}, or args:"
                    " by_reference) and some do not, so they would share no key; align them, or say"
                    " ordering_scope: method"
                )
        return self


def parse(path: Path) -> CatalogFile:
    """Read and check the file.

    Raises:
        BadRequestError: it is not of the catalog's shape, and where.
    """
    try:
        data = yaml_values.load(
            path.read_bytes(), bytes_max=BYTES_MAX, depth_max=DEPTH_MAX, aliases=True
        )
        checked(data)
        return CatalogFile.model_validate(data)
    except ValidationError as error:
        found = islice(error.errors(include_url=False, include_input=False), PROBLEMS_MAX)
        lines = [f"{cut('.'.join(map(str, one['loc'])))}: {cut(one['msg'])}" for one in found]
        raise BadRequestError("\n".join([f"{path}:", *lines])) from error
    except (OSError, YamlRefusedError, JsonRefusedError) as error:
        raise BadRequestError(f"{path}: {error}") from error


async def apply(engine: AsyncEngine, file: CatalogFile, *, prune: bool) -> dict[str, list[str]]:
    """Put the file in force in one transaction, as the owner's role; returns what changed.

    `prune` takes tools out of service that the file does not have, and removes such targets.

    Raises:
        BadRequestError: a tool's adapter has no such target, or does not fit it.
    """
    applied: list[str] = []
    removed: list[str] = []
    async with engine.begin() as conn:
        changed = [
            one.name for one in file.targets if await catalog_store.put_target(conn, one.made())
        ]
        if prune:
            kept = {(one.name, one.tenant) for one in file.targets}
            for one in await catalog_store.targets(conn):
                if (one.name, one.tenant) not in kept:
                    await catalog_store.remove_target(conn, one.name, one.tenant)
                    removed.append(one.name)
        check_adapters(file.tools, await catalog_store.targets(conn))
        for entry in file.tools:
            made = entry.made()
            if await catalog_store.put_tool(conn, made, in_flight_max=entry.in_flight_max):
                applied.append(made.name)
        names = [entry.made().name for entry in file.tools]
        retired = await catalog_store.retire_others(conn, names) if prune else []
        await catalog_store.announce(conn)
    return {"applied": applied, "retired": retired, "targets": changed, "removed": removed}


def check_adapters(tools: Sequence[ToolEntry], targets: Sequence[Target]) -> None:
    """Whether each tool's adapter is of a kind that there is, and can work at its targets.

    Raises:
        BadRequestError: it is not; what is wrong, tool by tool.
    """
    wrong: list[str] = []
    for entry in tools:
        adapter = entry.adapter
        if adapter is None or adapter.kind == PLAYBOOK:
            continue
        named = [one for one in targets if one.name == adapter.target]
        if not named:
            wrong.append(f"{entry.made().name}: there is no target {adapter.target!r}")
        for one in named:
            at = f"{entry.made().name}, target {one.name}"
            if one.kind != adapter.kind:
                wrong.append(f"{at}: it is of kind {one.kind}, not {adapter.kind}")
                continue
            wrong += [f"{at}: {problem}" for problem in kinds.check(one, adapter.mapping)]
    if wrong:
        raise BadRequestError("; ".join(cut(one) for one in wrong[:PROBLEMS_MAX]))

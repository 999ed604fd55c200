"""What a service's methods are, for who reviews them: JSON Schemas, and a digest, of descriptors.

The schemas say protobuf's JSON form. The digest is of what a call depends on: the messages' fields
and the enums' values, not comments and not the order in a file.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from google.protobuf import descriptor_pb2

from adapters.grpc.descriptors import WELL_KNOWN, DescriptorError, File, files_of, pool_of

Field = descriptor_pb2.FieldDescriptorProto
OWN: Final = ("grpc.reflection.",)
SIGNED: Final = {"minimum": -(2**31), "maximum": 2**31 - 1}
UNSIGNED: Final = {"minimum": 0, "maximum": 2**32 - 1}
SMALL: Final = (Field.TYPE_INT32, Field.TYPE_SINT32, Field.TYPE_SFIXED32)
SMALL_UNSIGNED: Final = (Field.TYPE_UINT32, Field.TYPE_FIXED32)
LARGE: Final = (
    *(Field.TYPE_INT64, Field.TYPE_SINT64, Field.TYPE_SFIXED64),
    *(Field.TYPE_UINT64, Field.TYPE_FIXED64),
)
REAL: Final = (Field.TYPE_DOUBLE, Field.TYPE_FLOAT)
LARGE_INTEGER: Final = {"type": ["integer", "string"], "pattern": "^-?[0-9]+$"}
NUMBER: Final = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
BYTES: Final = {"type": "string", "contentEncoding": "base64"}
ANYTHING: Final[Mapping[str, Any]] = {}
SPECIAL: Final[Mapping[str, Mapping[str, Any]]] = {
    "Timestamp": {"type": "string", "format": "date-time"},
    "Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$"},
    "FieldMask": {"type": "string", "description": "Paths in lowerCamelCase, with commas."},
    "Struct": {"type": "object"},
    "Value": ANYTHING,
    "ListValue": {"type": "array"},
    "Any": {"type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}}},
    "BoolValue": {"type": ["boolean", "null"]},
    "StringValue": {"type": ["string", "null"]},
    "BytesValue": {**BYTES, "type": ["string", "null"]},
    "Int32Value": {"type": ["integer", "null"]},
    "UInt32Value": {"type": ["integer", "null"], "minimum": 0},
    "Int64Value": {"type": ["integer", "string", "null"]},
    "UInt64Value": {"type": ["integer", "string", "null"]},
    "DoubleValue": {"anyOf": [*NUMBER["anyOf"], {"type": "null"}]},
    "FloatValue": {"anyOf": [*NUMBER["anyOf"], {"type": "null"}]},
}
"""Messages of google.protobuf with a JSON form of their own."""
GOOGLE: Final = "google.protobuf."


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A method."""

    name: str
    """As a mapping has it: `package.Service/Method`."""
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    descriptors: str
    digest: str
    streams: bool
    reads: bool
    idempotent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """A method that no call can be made of, and why."""

    name: str
    reason: str


def methods(descriptors: str) -> Iterator[Described | Unusable]:
    """All of a FileDescriptorSet in base64.

    Raises:
        DescriptorError: it is none, or its files do not fit together.
    """
    files = files_of(descriptors)
    pool = pool_of(files)
    texts = {path: text for one in files for path, text in _comments(one)}
    for file in files:
        prefix = f"{file.package}." if file.package else ""
        for service in file.service:
            name = prefix + service.name
            if name.startswith(OWN):
                continue
            pinned = _pinned(files, file.name)
            for one in service.method:
                found = pool.FindServiceByName(name).methods_by_name[one.name]
                yield _method(f"{name}/{one.name}", found, one, pinned, texts)


def digest_of(descriptors: str, name: str) -> str | None:
    """The digest of one method; None where there is none.

    Raises:
        DescriptorError: these are no descriptors.
    """
    service, _, short = name.rpartition("/")
    try:
        found: Any = pool_of(files_of(descriptors)).FindServiceByName(service)
    except KeyError:
        return None
    method = found.methods_by_name.get(short)
    return None if method is None else _digest(method)


def _method(
    name: str, found: Any, told: Any, pinned: str, texts: Mapping[str, str]
) -> Described | Unusable:
    if found.client_streaming:
        return Unusable(name=name, reason="it takes a stream of requests, which a call is not")
    level = told.options.idempotency_level
    schemas = _Schemas(texts)
    output = schemas.whole(found.output_type)
    if found.server_streaming:
        inner = {key: one for key, one in output.items() if key != "$defs"}
        messages = {"type": "array", "items": inner}
        output = {"type": "object", "properties": {"messages": messages}} | (
            {"$defs": output["$defs"]} if "$defs" in output else {}
        )
    return Described(
        name=name,
        description=texts.get(found.full_name, ""),
        input_schema=schemas.whole(found.input_type),
        output_schema=output if output.get("type") == "object" else None,
        descriptors=pinned,
        digest=_digest(found),
        streams=found.server_streaming,
        reads=level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
        idempotent=level == descriptor_pb2.MethodOptions.IDEMPOTENT,
    )


class _Schemas:
    """Messages as JSON Schemas; what they hold is collected as `$defs`."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def whole(self, message: Any) -> dict[str, Any]:
        """Of a message that stands alone."""
        found: dict[str, Any] = {}
        made = self._message(message)
        waiting = list(_held(message))
        while waiting:
            one = waiting.pop()
            if one.full_name not in found and _special(one) is None:
                found[one.full_name] = self._message(one)
                waiting += _held(one)
        return made | ({"$defs": {name: found[name] for name in sorted(found)}} if found else {})

    def _message(self, message: Any) -> dict[str, Any]:
        special = _special(message)
        if special is not None:
            return dict(special)
        made: dict[str, Any] = {
            "type": "object",
            "properties": {one.json_name: self._field(one) for one in message.fields},
            "additionalProperties": False,
        }
        if required := [one.json_name for one in message.fields if one.is_required]:
            made["required"] = required
        choices = [
            " or ".join(field.json_name for field in one.fields)
            for one in message.oneofs
            if len(one.fields) > 1
        ]
        words = [self._texts.get(message.full_name, ""), *(f"At most one: {c}." for c in choices)]
        if text := " ".join(one for one in words if one):
            made["description"] = text
        return made

    def _field(self, field: Any) -> dict[str, Any]:
        if _is_map(field):
            values = field.message_type.fields_by_name["value"]
            made: dict[str, Any] = {"type": "object", "additionalProperties": self._one(values)}
        elif field.is_repeated:
            made = {"type": "array", "items": self._one(field)}
        else:
            made = self._one(field)
        text = self._texts.get(field.full_name)
        return made | ({"description": text} if text else {})

    def _one(self, field: Any) -> dict[str, Any]:
        if field.message_type is not None:
            special = _special(field.message_type)
            if special is not None:
                return dict(special)
            return {"$ref": f"#/$defs/{field.message_type.full_name}"}
        if field.enum_type is not None:
            if field.enum_type.full_name == f"{GOOGLE}NullValue":
                return {"type": "null"}
            return {"type": "string", "enum": [one.name for one in field.enum_type.values]}
        return _scalar(field.type)


def _scalar(kind: int) -> dict[str, Any]:
    if kind in SMALL:
        return {"type": "integer", **SIGNED}
    if kind in SMALL_UNSIGNED:
        return {"type": "integer", **UNSIGNED}
    if kind in LARGE:
        return dict(LARGE_INTEGER)
    if kind in REAL:
        return dict(NUMBER)
    if kind == Field.TYPE_BOOL:
        return {"type": "boolean"}
    return dict(BYTES) if kind == Field.TYPE_BYTES else {"type": "string"}


def _special(message: Any) -> Mapping[str, Any] | None:
    name: str = message.full_name
    return SPECIAL.get(name.removeprefix(GOOGLE)) if name.startswith(GOOGLE) else None


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _held(message: Any) -> Iterator[Any]:
    """Messages of its fields; of a map, its values'."""
    for field in message.fields:
        inner = field.message_type
        if _is_map(field):
            inner = inner.fields_by_name["value"].message_type
        if inner is not None:
            yield inner


def _digest(method: Any) -> str:
    types: dict[str, Any] = {}
    waiting = [method.input_type, method.output_type]
    while waiting:
        one = waiting.pop()
        if one.full_name in types:
            continue
        fields: list[Any] = []
        for field in one.fields:
            kind = field.message_type or field.enum_type
            shape = [field.is_repeated, field.is_required, field.json_name]
            named = "" if kind is None else kind.full_name
            fields.append([field.number, field.name, field.type, named, *shape])
            if field.message_type is not None:
                waiting.append(field.message_type)
            elif field.enum_type is not None:
                values = sorted([value.number, value.name] for value in field.enum_type.values)
                types[field.enum_type.full_name] = values
        types[one.full_name] = sorted(fields)
    told = [method.full_name, method.server_streaming, method.client_streaming]
    ends = [method.input_type.full_name, method.output_type.full_name]
    written = orjson.dumps([told, ends, types], option=orjson.OPT_SORT_KEYS)
    return "sha256:" + hashlib.sha256(written).hexdigest()


def _pinned(files: Iterable[File], name: str) -> str:
    """The files that this one needs, without their comments and without Google's own."""
    known = {one.name: one for one in files}
    needed, waiting = dict[str, File](), [name]
    while waiting:
        one = waiting.pop()
        if one in needed or (one in WELL_KNOWN and one not in known):
            continue
        if one not in known:
            raise DescriptorError(f"the descriptors lack the file {one}")
        if one not in WELL_KNOWN:
            needed[one] = File()
            needed[one].CopyFrom(known[one])
            needed[one].ClearField("source_code_info")
        waiting += known[one].dependency
    made = descriptor_pb2.FileDescriptorSet(file=[needed[one] for one in sorted(needed)])
    return base64.b64encode(made.SerializeToString(deterministic=True)).decode()


def _comments(file: File) -> Iterator[tuple[str, str]]:
    """What is written above services, methods, messages and fields, by full name."""
    prefix = [file.package] if file.package else []
    for one in file.source_code_info.location:
        text = " ".join(one.leading_comments.split())
        name = _named(file, list(one.path)) if text else None
        if name is not None:
            yield ".".join([*prefix, *name]), text


def _named(file: File, path: list[int]) -> list[str] | None:
    """The name at a path of field numbers, as descriptor.proto has them."""
    at: Any = file
    names: list[str] = []
    for number, index in zip(path[::2], path[1::2], strict=False):
        field = at.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.name not in ("message_type", "nested_type", "field", "service",
                                               "method"):  # fmt: skip
            return None
        at = getattr(at, field.name)[index]
        names.append(at.name)
    return names if len(path) % 2 == 0 else None

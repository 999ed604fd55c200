"""The configuration that an automation controller and EDA keep, refused as their APIs refuse it.

Fields, requirements and what an answer shows are those of AWX's serializers
(https://github.com/ansible/awx, awx/api/serializers.py) and of EDA's
(https://github.com/ansible/eda-server, aap_eda/api/serializers). A field that the API does not know
is dropped without a word, as there; `dropped` has it.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from tests.system.eda.http_server import serving

Answer = tuple[int, Any]
Object = dict[str, Any]

TOKEN: Final = "an-administrators-token"
ENCRYPTED: Final = "$encrypted$"
TEMPLATES: Final = SandboxedEnvironment(undefined=jinja2.StrictUndefined)


class RefusedError(Exception):
    """What the API answers 400, or `status`, with."""

    def __init__(self, said: Any, status: int = 400) -> None:
        super().__init__(said)
        self.said, self.status = said, status


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One of an object's: its type, whether it must be given, and which kind it names by id."""

    is_a: type = str
    required: bool = False
    default: Any = None
    of: str | None = None


def text(*, required: bool = False, default: str = "") -> Field:
    return Field(required=required, default=default)


def flag(*, default: bool = False) -> Field:
    return Field(is_a=bool, default=default)


def reference(kind: str, *, required: bool = False) -> Field:
    return Field(is_a=int, required=required, of=kind)


@dataclass(slots=True)
class Api:
    """A server of objects, by kind; a subclass says which, and checks them."""

    root: str
    kinds: Mapping[str, Mapping[str, Field]]
    checks: Mapping[str, Callable[[Object], None]] = field(default_factory=dict[str, Any])
    objects: dict[str, list[Object]] = field(default_factory=dict[str, list[Object]])
    changes: list[str] = field(default_factory=list[str])  # what was asked but to be shown
    dropped: list[str] = field(default_factory=list[str])
    url: str = ""
    _serving: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.url = self._serving.enter_context(serving(self._answered))
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.close()

    def _answered(self, method: str, target: str, body: Any, authorization: str | None) -> Answer:
        if authorization != f"Bearer {TOKEN}":
            return 401, {"detail": "Authentication credentials were not provided."}
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if method != "GET":
            self.changes.append(f"{method} {url.path}")
        try:
            path = url.path.removeprefix(self.root).strip("/").split("/")
            return self.answer(method, path, query, body)
        except RefusedError as error:
            return error.status, error.said

    def answer(self, method: str, path: list[str], query: Mapping[str, str], body: Any) -> Answer:
        match [method, *path]:
            case ["GET", kind] if kind in self.kinds:
                found = [one for one in self.all(kind) if self.is_asked_for(one, query)]
                views = [self.view(kind, one) for one in found]
                return 200, {"count": len(found), "next": None, "results": views}
            case ["POST", kind] if kind in self.kinds:
                return 201, self.view(kind, self.make(kind, body))
            case ["GET", kind, number] if kind in self.kinds:
                return 200, self.view(kind, self.one(kind, int(number)))
            case ["PATCH", kind, number] if kind in self.kinds:
                made = self.one(kind, int(number))
                self.change(kind, made, body)
                return 200, self.view(kind, made)
            case _:
                return 404, {"detail": "Not found."}

    def all(self, kind: str) -> list[Object]:
        return self.objects.setdefault(kind, [])

    def one(self, kind: str, number: int) -> Object:
        found = [one for one in self.all(kind) if one["id"] == number]
        if not found:
            raise RefusedError({"detail": "Not found."}, 404)
        return found[0]

    def named(self, kind: str, name: str) -> Object:
        [found] = [one for one in self.all(kind) if one["name"] == name]
        return found

    def is_asked_for(self, one: Object, query: Mapping[str, str]) -> bool:
        return all(str(one.get(name)) == value for name, value in query.items())

    def make(self, kind: str, body: Object) -> Object:
        made = {name: told.default for name, told in self.kinds[kind].items()}
        made |= self.checked(kind, body)
        lacking = [n for n, told in self.kinds[kind].items() if told.required and n not in body]
        if lacking:
            raise RefusedError({name: ["This field is required."] for name in lacking})
        made["id"] = sum(map(len, self.objects.values())) + 1
        made["url"] = made.get("url") or f"{self.root}/{kind}/{made['id']}/"
        self._settle(kind, made)
        self.all(kind).append(made)
        return made

    def change(self, kind: str, made: Object, body: Object) -> None:
        self._settle(kind, made | self.checked(kind, body))
        made.update(self.checked(kind, body))

    def checked(self, kind: str, body: Object) -> Object:
        """The fields that the API takes, each of its type."""
        known = self.kinds[kind]
        self.dropped += [f"{kind}.{name}" for name in body if name not in known]
        taken = {name: value for name, value in body.items() if name in known}
        for name, value in taken.items():
            told = known[name]
            if value is not None and type(value) is not told.is_a:
                raise RefusedError({name: [f"Not a valid {told.is_a.__name__}."]})
            if told.of is not None and value is not None:
                known_ids = {one["id"] for one in self.all(told.of)}
                if value not in known_ids:
                    raise RefusedError({name: [f'Invalid pk "{value}" - object does not exist.']})
        return taken

    def _settle(self, kind: str, made: Object) -> None:
        same = [one for one in self.all(kind) if one["name"] == made["name"]]
        if any(one["id"] != made["id"] for one in same):
            raise RefusedError({"__all__": [f"{kind} with this name already exists."]})
        if kind in self.checks:
            self.checks[kind](made)

    def view(self, kind: str, one: Object) -> Object:
        if "inputs" not in one or "injectors" in one:
            return {"type": kind.removesuffix("s"), **one}
        secret = self.secrets_of(one)
        shown = {n: ENCRYPTED if n in secret else value for n, value in one["inputs"].items()}
        return {"type": "credential", **one, "inputs": shown}

    def type_of(self, credential: Object) -> Object:
        kind = "credential_types" if "credential_types" in self.kinds else "credential-types"
        return self.one(kind, credential.get("credential_type") or credential["credential_type_id"])

    def secrets_of(self, credential: Object) -> set[str]:
        fields = self.type_of(credential)["inputs"]["fields"]
        return {one["id"] for one in fields if one.get("secret")}


def check_inputs(given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """A credential's, by its type's."""
    known = {one["id"] for one in schema.get("fields", ())}
    if unknown := sorted(set(given) - known):
        raise RefusedError({"inputs": [f"Input keys {unknown} are not defined in the schema."]})
    if lacking := sorted(name for name in schema.get("required", ()) if not given.get(name)):
        raise RefusedError({"inputs": [f"{lacking}: this field is required."]})


def injected(
    injectors: Mapping[str, Mapping[str, str]], inputs: Mapping[str, Any], filename: str
) -> dict[str, dict[str, str]]:
    """What a job, or an activation, gets by a credential."""
    context = dict(inputs)
    if "template" in injectors.get("file", {}):
        context["tower"] = {"filename": filename}
    return {
        where: {name: TEMPLATES.from_string(one).render(context) for name, one in parts.items()}
        for where, parts in injectors.items()
    }


def check_type(made: Object, keys: set[str]) -> None:
    """A credential type's inputs, and injectors that name nothing else."""
    for one in made["inputs"].get("fields", ()):
        if not {"id", "label"} <= set(one) or one.get("type", "string") not in {
            "string",
            "boolean",
        }:
            raise RefusedError({"inputs": [f"{one} is no field"]})
        if set(one) - {
            "id",
            "label",
            "type",
            "secret",
            "help_text",
            "default",
            "choices",
            "format",
        }:
            raise RefusedError({"inputs": ["Additional properties are not allowed"]})
    if not set(made["injectors"]) <= keys:
        said = f"Injectors must have keys defined in {sorted(keys)}"
        raise RefusedError({"injectors": [said]})
    inputs = {one["id"]: "" for one in made["inputs"].get("fields", ())}
    try:
        injected(made["injectors"], inputs, "")
    except jinja2.UndefinedError as error:
        raise RefusedError({"injectors": [f"{error}"]}) from None

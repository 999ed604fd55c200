"""The templates that a token may execute, and what they ask for at launch as JSON Schema."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from adapters.aap.api import Api, wire_of
from adapters.contract import TARGET_FAILED, CallFailedError, Known, Opening

KINDS: Final = {"job_template": "job_templates", "workflow_job_template": "workflow_job_templates"}
# What a template asks for, by its `ask_…_on_launch`: the launch's field, and its schema.
ASKED: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "limit": ("limit", {"type": "string", "description": "Which hosts of the inventory."}),
    "inventory": ("inventory", {"type": "integer", "minimum": 1, "description": "Its id."}),
    "tags": ("job_tags", {"type": "string", "description": "Tasks to run, by tag."}),
    "skip_tags": ("skip_tags", {"type": "string", "description": "Tasks to leave out, by tag."}),
    "job_type": ("job_type", {"type": "string", "enum": ["run", "check"]}),
    "verbosity": ("verbosity", {"type": "integer", "minimum": 0, "maximum": 5}),
    "diff_mode": ("diff_mode", {"type": "boolean", "description": "Show what changes."}),
    "scm_branch": ("scm_branch", {"type": "string", "description": "Of the project."}),
    "forks": ("forks", {"type": "integer", "minimum": 0}),
    "job_slice_count": ("job_slice_count", {"type": "integer", "minimum": 1}),
    "timeout": ("timeout", {"type": "integer", "description": "Of the job, in seconds."}),
    "execution_environment": (
        "execution_environment",
        {"type": "integer", "minimum": 1, "description": "Its id."},
    ),
}
LEFT: Final = ("credential", "instance_groups")
"""Asked for too, and no caller's to give."""
NUMBER_MAX: Final = 2**63
LABEL: Final = "mcp"
"""What jobs are labelled with beside their command's id, where a template asks for labels."""
RESULT: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "job": {
            "type": "object",
            "properties": {
                "id": {"type": "integer"},
                "status": {"type": "string"},
                "link": {"type": "string"},
            },
        },
        "artifacts": {"type": "object", "description": "What its playbook keeps by set_stats."},
        "output": {"type": "string", "description": "The last lines of its output."},
    },
    "required": ["job", "artifacts", "output"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template, as the controller tells of it."""

    id: int
    is_workflow: bool
    name: str
    description: str
    organization: str
    labels: tuple[str, ...]
    asks: tuple[str, ...]
    survey: tuple[Mapping[str, Any], ...]
    needs: tuple[str, ...] = ()
    """Fields of its launch that it asks for and has no value of its own for."""

    @property
    def key(self) -> str:
        """The same for it later."""
        return f"{'workflow' if self.is_workflow else 'job'}:{self.id}"

    @property
    def prompts(self) -> dict[str, str]:
        """Fields of its launch, and the arguments that give them: a question goes before."""
        asked = {question["variable"] for question in self.survey}
        fields = [ASKED[one][0] for one in self.asks if one in ASKED]
        return {one: f"launch_{one}" if one in asked else one for one in fields}

    @property
    def input_schema(self) -> dict[str, Any]:
        """What a caller gives it."""
        schemas: dict[str, Mapping[str, Any]] = dict(ASKED.values())
        properties = {one["variable"]: schema_of(one) for one in self.survey}
        properties |= {name: dict(schemas[field]) for field, name in self.prompts.items()}
        made: dict[str, Any] = {"type": "object", "properties": properties}
        needed = [one["variable"] for one in self.survey if one.get("required")]
        needed = [name for name in needed if name not in self.stored]
        if needed := needed + [self.prompts[field] for field in self.needs]:
            made["required"] = needed
        return made | {"additionalProperties": False}

    @property
    def stored(self) -> list[str]:
        """Passwords that it must have and has: a caller may leave them to it."""
        return [
            one["variable"]
            for one in self.survey
            if one.get("type") == "password" and one.get("required") and one.get("default")
        ]

    @property
    def mapping(self) -> dict[str, Any]:
        """The tool's `adapter:`, less its target."""
        made: dict[str, Any] = {"template": self.id}
        if self.is_workflow:
            made["workflow"] = True
        if self.prompts:
            made["prompts"] = self.prompts
        if "labels" in self.asks:
            made["labels"] = [LABEL]
        if self.stored:
            made["stored"] = self.stored
        reviewed = [self.name, self.description, *self.labels, self.input_schema, made]
        written = orjson.dumps(reviewed, option=orjson.OPT_SORT_KEYS)
        return made | {"digest": f"sha256:{hashlib.sha256(written).hexdigest()}"}


async def listed(opening: Opening) -> list[Template | tuple[str, str]]:
    """What the token may execute; of one that cannot be read, its name and why.

    Raises:
        CallFailedError: the controller cannot be asked.
    """
    wire = await wire_of(opening)
    try:
        api = Api(opening, wire, None)
        found: list[Template | tuple[str, str]] = []
        for kind, path in KINDS.items():
            for said in await api.every(f"{path}/", order_by="id"):
                capabilities = said["summary_fields"].get("user_capabilities") or {}
                if capabilities.get("start"):
                    found.append(await _read(api, kind, f"{path}/{said['id']}/", said))
        return found
    finally:
        await wire.close()


async def _read(
    api: Api, kind: str, path: str, said: Mapping[str, Any]
) -> Template | tuple[str, str]:
    try:
        return _template(kind, said, await _survey(api, path, said))
    except CallFailedError as error:
        return said["name"], f"its survey cannot be read: {error.message}"


async def read(api: Api, *, workflow: bool, number: int) -> Template:
    """One of them, as it is now.

    Raises:
        CallFailedError: it, or its survey, cannot be read.
    """
    kind = "workflow_job_template" if workflow else "job_template"
    path = f"{KINDS[kind]}/{number}/"
    said = await api.get(path)
    return _template(kind, said, await _survey(api, path, said))


async def _survey(api: Api, path: str, said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if not said.get("survey_enabled"):
        return []
    return (await api.get(f"{path}survey_spec/")).get("spec") or []


def _template(kind: str, said: Mapping[str, Any], survey: Sequence[Mapping[str, Any]]) -> Template:
    summary = said["summary_fields"]
    template = Template(
        id=said["id"],
        is_workflow=kind != "job_template",
        name=said["name"],
        description=said.get("description") or "",
        organization=(summary.get("organization") or {}).get("name") or "",
        labels=tuple(one["name"] for one in (summary.get("labels") or {}).get("results", ())),
        asks=tuple(
            one
            for one in (*ASKED, *LEFT, "labels", "variables")
            if said.get(f"ask_{one}_on_launch")
        ),
        survey=tuple(survey),
        needs=("inventory",) if _lacks_inventory(kind, said) else (),
    )
    try:
        assert template.input_schema
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        words = f"A question of its survey makes no sense ({error})."
        raise CallFailedError(Known.REFUSED, TARGET_FAILED, words) from None
    return template


def _lacks_inventory(kind: str, said: Mapping[str, Any]) -> bool:
    """A job has to have one; a workflow's nodes may bring theirs."""
    asks = bool(said.get("ask_inventory_on_launch"))
    return kind == "job_template" and asks and said.get("inventory") is None


def schema_of(question: Mapping[str, Any]) -> dict[str, Any]:
    """A survey's question as JSON Schema."""
    made = _typed(question)
    title, words = question.get("question_name"), question.get("question_description")
    if question.get("type") == "password" and question.get("default"):
        words = f"{words or ''} Left out, the template's own is used.".strip()
    if title:
        made["title"] = title
    if words:
        made["description"] = words
    default = _default(question)
    return made if default is None else made | {"default": default}


def _typed(question: Mapping[str, Any]) -> dict[str, Any]:
    kind = question.get("type")
    low, high = _number(question.get("min")), _number(question.get("max"))
    match kind:
        case "integer" | "float":
            made: dict[str, Any] = {"type": "integer" if kind == "integer" else "number"}
            return made | _given(minimum=low, maximum=high)
        case "multiplechoice":
            return {"type": "string", "enum": _choices(question)}
        case "multiselect":
            items = {"type": "string", "enum": _choices(question)}
            return {"type": "array", "items": items, "uniqueItems": True}
        case _:
            made = {"type": "string"} | _given(minLength=low, maxLength=high)
            # By its format an import knows what is secret, whatever its name.
            return made | ({"format": "password"} if kind == "password" else {})


def _default(question: Mapping[str, Any]) -> Any:
    default, kind = question.get("default"), question.get("type")
    if default in (None, "") or kind == "password":
        return None
    if kind == "multiselect":
        return default if isinstance(default, list) else str(default).splitlines()
    return _number(default) if kind in ("integer", "float") else default


def _choices(question: Mapping[str, Any]) -> list[str]:
    given = question.get("choices") or []
    lines = given.splitlines() if isinstance(given, str) else given
    return list(dict.fromkeys(str(one) for one in lines if str(one).strip()))


def _number(value: Any) -> float | None:
    if value in (None, ""):
        return None
    number = float(value)
    if not abs(number) < NUMBER_MAX:  # NaN is no less than anything
        raise ValueError(f"{str(value)[:40]} is no number that JSON keeps")
    return int(number) if number.is_integer() else number


def _given(**bounds: float | None) -> dict[str, Any]:
    return {name: one for name, one in bounds.items() if one is not None}

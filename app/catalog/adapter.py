"""What the catalog says of who works on a tool's calls, where, and by which kind of adapter."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.contract import WORKER_COMMANDS, Name

PLAYBOOK: Final = "playbook"
"""EDA's own kind: a playbook, or a job template of that name."""
AAP: Final = "aap"
"""What a playbook says of its launch on an automation controller."""

# It stands in the rulebook, between quotes; what is a template there is ansible-rulebook's.
Label = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\"\\{}\n\r]+$")]
Id = Annotated[int, Field(ge=1)]


class ControllerLaunch(BaseModel):
    """A playbook's `aap:`: how an automation controller launches it in place of the playbook.

    What the template does not ask for at launch the controller ignores. Ids are the controller's,
    as its API takes no names there; labels are names, made where they are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_template: Label | None = Field(default=None, description="By default the playbook's name.")
    workflow_template: Label | None = None
    organization: Label = "Default"
    inventory: Id | None = None
    limit: Label | None = Field(
        default=None, description="By default none: the playbook says its hosts."
    )
    labels: tuple[Label, ...] = Field(
        default=(), description="With any of them the command's id is a label too."
    )
    job_tags: Label | None = None
    execution_environment: Id | None = None
    instance_groups: tuple[Id, ...] = ()
    verbosity: int | None = Field(default=None, ge=0, le=5)

    @model_validator(mode="after")
    def whole(self) -> Self:
        """One template; a workflow has nodes of its own, which say where they run."""
        if self.workflow_template is None:
            return self
        if self.job_template is not None:
            raise ValueError("aap: job_template or workflow_template, not both")
        for name in ("execution_environment", "instance_groups", "verbosity"):
            if getattr(self, name) not in {None, ()}:
                raise ValueError(f"aap: a workflow_template takes no {name}: its nodes have theirs")
        return self


class ToolAdapter(BaseModel):
    """A tool's `adapter:`; what it says beside these fields is the kind's mapping."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Name
    target: Name | None = Field(default=None, description="By name: the tenant's own, or shared.")
    runs_on: Literal["worker", "eda"] = Field(
        default="worker", description="Which executor takes the tool's calls."
    )

    @model_validator(mode="before")
    @classmethod
    def own(cls, given: Any) -> Any:
        """A playbook runs where playbooks do."""
        if isinstance(given, Mapping) and given.get("kind") == PLAYBOOK:
            return {"runs_on": "eda", **given}
        return given

    @model_validator(mode="after")
    def playbooks(self) -> Self:
        """A playbook is EDA's, and has a name of its own; every other kind has a target."""
        if self.kind != PLAYBOOK:
            if self.target is None:
                raise ValueError("an adapter has a target, which says where it works")
            return self
        if self.runs_on != "eda" or self.target is not None:
            raise ValueError("a playbook runs on eda, and has no target")
        name = self.mapping.get(PLAYBOOK)
        if not {PLAYBOOK} <= set(self.mapping) <= {PLAYBOOK, AAP} or not isinstance(name, str):
            raise ValueError("a playbook has a name, as `playbook:`, and no more than `aap:`")
        assert self.launch is not None, "it was read"
        if not name.replace("_", "").isalnum() or not name.isascii():
            raise ValueError("a playbook's name has letters, digits and _ only, and no .yml")
        return self

    @property
    def mapping(self) -> Mapping[str, Any]:
        """What only its kind knows."""
        return self.model_extra or {}

    @property
    def launch(self) -> ControllerLaunch | None:
        """A playbook's way through a controller; None of any other kind."""
        if self.kind != PLAYBOOK:
            return None
        return ControllerLaunch.model_validate(self.mapping.get(AAP) or {})

    @property
    def topic(self) -> str | None:
        """Where its executor reads commands; None: mcp.commands."""
        return WORKER_COMMANDS if self.runs_on == "worker" else None

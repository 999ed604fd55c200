"""Templates of the tests' automation controller, as its API shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

API = "/api/v2"


@dataclass(slots=True)
class Template:
    """A job template, as an administrator has set it up; a workflow's with `workflow`."""

    name: str
    ask_variables: bool = True
    concurrent: bool = True
    workflow: bool = False
    lacks: Mapping[str, Any] = field(default_factory=dict[str, Any])  # why a launch answers 400
    survey: Sequence[Mapping[str, Any]] = ()
    asks: Sequence[str] = ()  # ask_…_on_launch that are set beside the variables'
    description: str = ""
    organization: str = "Default"
    labels: Sequence[str] = ()
    number: int = 0  # its id, where one is asked for
    may_start: bool = True
    organization_id: int | None = 1
    inventory: int | None = 1
    slices: int = 1  # with more, AWX makes a workflow of its job

    @property
    def kind(self) -> str:
        return "workflow_job_template" if self.workflow else "job_template"

    def view(self) -> dict[str, Any]:
        path = f"{API}/{self.kind}s/{self.number or self.name}"
        asks = {f"ask_{name}_on_launch": name in self.asks for name in ASKED}
        labels = [{"id": n, "name": name} for n, name in enumerate(self.labels)]
        return asks | {
            "id": self.number or self.name,
            "type": self.kind,
            "name": self.name,
            "organization": self.organization_id,
            "inventory": self.inventory,
            "description": self.description,
            "url": f"{path}/",
            "related": {"launch": f"{path}/launch/", "survey_spec": f"{path}/survey_spec/"},
            "summary_fields": {
                "organization": {"name": self.organization},
                "labels": {"count": len(labels), "results": labels},
                "user_capabilities": {"start": self.may_start},
            },
            "survey_enabled": bool(self.survey),
            "ask_variables_on_launch": self.ask_variables,
        }


ASKED = (
    "limit",
    "labels",
    "inventory",
    "tags",
    "skip_tags",
    "job_type",
    "verbosity",
    "diff_mode",
    "scm_branch",
    "credential",
    "forks",
    "execution_environment",
    "instance_groups",
    "job_slice_count",
    "timeout",
)

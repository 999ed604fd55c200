"""A workflow's job has no output of its own: what it says is what the jobs of its nodes say."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.aap.api import Api
from adapters.contract import CallFailedError

ENDED: Final = frozenset({"successful", "failed", "error", "canceled"})
BROKEN: Final = ENDED - {"successful"}
WORKFLOW: Final = "workflow_job"
# By what a node runs, where it stands in the API, and its output (awx/api/urls).
PLACES: Final[Mapping[str, tuple[str, str | None]]] = {
    "job": ("jobs", "job_events"),
    WORKFLOW: ("workflow_jobs", None),
    "project_update": ("project_updates", "events"),
    "inventory_update": ("inventory_updates", "events"),
    "ad_hoc_command": ("ad_hoc_commands", "events"),
    "system_job": ("system_jobs", "events"),
    "workflow_approval": ("workflow_approvals", None),
}
KINDS: Final = {
    "job": "Job",
    WORKFLOW: "Workflow job",
    "project_update": "Project update",
    "inventory_update": "Inventory update",
    "ad_hoc_command": "Ad hoc command",
    "system_job": "System job",
    "workflow_approval": "Approval",
}
NESTED_MAX: Final = 3
SHOWN_MAX: Final = 15
ASKED_MAX: Final = 100
"""Jobs whose artifacts are asked for, each by a request."""
EVENTS_MAX: Final = 50
SETTLE_S: Final = 0.5
SETTLE_TRIES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The job of a node."""

    id: int
    type: str
    name: str
    status: str
    timed_out: bool = False

    @property
    def path(self) -> str:
        """Below the API's."""
        return f"{PLACES[self.type][0]}/{self.id}/"

    @property
    def title(self) -> str:
        """For people."""
        return f"{KINDS[self.type]} {self.id} ({self.name})"

    @property
    def line(self) -> str:
        """How it fares."""
        if self.type == "workflow_approval" and self.status == "failed":
            return f"{self.title}: {'timed out' if self.timed_out else 'denied'}"
        return f"{self.title}: {self.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """What a workflow consists of."""

    parts: Sequence[Part]
    """The jobs of its nodes that have begun, and after a nested workflow its own."""
    over: int
    total: int
    """Of its own nodes: those that have ended, and all that it may come to."""

    @property
    def told(self) -> Part | None:
        """Whose output says most: the job that failed first, or the newest one that has ended."""
        ended = [one for one in self.parts if one.status in ENDED and one.type != WORKFLOW]
        broken = [one for one in ended if one.status in BROKEN]
        if broken:
            return broken[0]
        return max(
            (one for one in ended if PLACES[one.type][1]), key=lambda one: one.id, default=None
        )

    @property
    def lines(self) -> list[str]:
        """Its jobs, a line each."""
        lines = [one.line for one in self.parts[:SHOWN_MAX]]
        more = len(self.parts) - SHOWN_MAX
        return [*lines, f"and {more} more"] if more > 0 else lines


async def nodes_of(api: Api, path: str, nested: int = 0) -> Nodes:
    """The nodes of a workflow's job.

    Raises:
        CallFailedError: they cannot be had.
    """
    parts: list[Part] = []
    over = total = 0
    for node in await api.every(f"{path}workflow_nodes/", order_by="id"):
        said: Mapping[str, Any] = (node.get("summary_fields") or {}).get("job") or {}
        total += not node.get("do_not_run")
        if said.get("type") not in PLACES:
            continue
        part = Part(
            id=said["id"],
            type=said["type"],
            name=str(said.get("name")),
            status=str(said.get("status")),
            timed_out=bool(said.get("timed_out")),
        )
        over += part.status in ENDED
        parts.append(part)
        if part.type == WORKFLOW and nested < NESTED_MAX:
            parts += (await nodes_of(api, part.path, nested + 1)).parts
    return Nodes(parts=parts, over=over, total=total)


async def events_of(api: Api, type_: str, number: int) -> Sequence[dict[str, Any]]:
    """The newest events of a job that has ended, newest first; none where they cannot be had.

    The controller ends a job before it has kept the last of them, so they are waited for.
    """
    place, events = PLACES[type_]
    if events is None:
        return []
    asked: dict[str, Any] = {"order_by": "-counter", "page_size": EVENTS_MAX}
    try:
        for _ in range(SETTLE_TRIES):
            said = await api.get(f"{place}/{number}/")
            if said.get("event_processing_finished") is not False:
                break
            await asyncio.sleep(SETTLE_S)
        return (await api.get(f"{place}/{number}/{events}/", **asked))["results"]
    except CallFailedError:
        return []  # what is said of its end is said without them


async def artifacts_of(api: Api, parts: Sequence[Part]) -> dict[str, Any]:
    """What a workflow's jobs have kept, as the controller itself gathers it: later ones win.

    Its API shows them at the jobs alone (awx, `get_effective_artifacts`).
    """
    jobs = [one for one in parts if one.type == "job" and one.status in ("successful", "failed")]
    kept: list[tuple[str, int, Mapping[str, Any]]] = []
    for one in jobs[:ASKED_MAX]:
        try:
            said = await api.get(one.path)
        except CallFailedError:
            continue
        kept.append((str(said.get("finished") or ""), one.id, shown(said.get("artifacts"))))
    gathered: dict[str, Any] = {}
    for _, _, artifacts in sorted(kept, key=lambda one: one[:2]):
        gathered |= artifacts
    return gathered


def shown(artifacts: Any) -> Mapping[str, Any]:
    """A job's artifacts; in place of those of a task with no_log there is a sentence."""
    return artifacts if isinstance(artifacts, dict) else {}

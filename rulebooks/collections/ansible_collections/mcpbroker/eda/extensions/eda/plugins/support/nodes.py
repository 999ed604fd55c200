"""What a workflow's job says: it has no output of its own, the jobs of its nodes have it.

A job is told of as the controller's lists do it, by a dict of `id`, `type`, `name` and `status`.
"""

from typing import Any

# By what a node runs, where it stands in the API, and its output (AWX's API v2).
PLACES = {
    "job": ("jobs", "job_events"),
    "workflow_job": ("workflow_jobs", None),
    "project_update": ("project_updates", "events"),
    "inventory_update": ("inventory_updates", "events"),
    "ad_hoc_command": ("ad_hoc_commands", "events"),
    "system_job": ("system_jobs", "events"),
    "workflow_approval": ("workflow_approvals", None),
}
KINDS = {"workflow_job": "Workflow job", "workflow_approval": "Approval"}
BROKEN = frozenset({"failed", "error", "canceled"})
SHOWN_MAX = 15


def path_of(said: dict[str, Any]) -> str:
    """Where a job stands below the API's address."""
    return f"{PLACES[said['type']][0]}/{said['id']}/"


def events_of(said: dict[str, Any]) -> str | None:
    """Where its events stand, if it has any."""
    events = PLACES[said["type"]][1]
    return events and f"{path_of(said)}{events}/"


def said_by(node: dict[str, Any]) -> dict[str, Any] | None:
    """The job of a workflow's node; None of one that has not begun."""
    said = (node.get("summary_fields") or {}).get("job") or {}
    return said if said.get("type") in PLACES else None


def telling(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Whose output says most: the job that failed first, or the newest one that is done."""
    jobs = [one for one in parts if one["type"] != "workflow_job"]
    broken = [one for one in jobs if one.get("status") in BROKEN]
    if broken:
        return broken[0]
    done = [one for one in jobs if one.get("status") == "successful" and events_of(one)]
    return max(done, key=lambda one: one["id"]) if done else None


def line_of(said: dict[str, Any]) -> str:
    """A node's job, for people."""
    kind = KINDS.get(said["type"]) or said["type"].replace("_", " ").capitalize()
    status = said.get("status")
    if said["type"] == "workflow_approval" and status == "failed":
        status = "timed out" if said.get("timed_out") else "denied"
    return f"{kind} {said['id']} ({said.get('name')}): {status}"


def lines_of(parts: list[dict[str, Any]]) -> list[str]:
    """A workflow's jobs, a line each."""
    lines = [line_of(one) for one in parts[:SHOWN_MAX]]
    more = len(parts) - SHOWN_MAX
    return [*lines, f"and {more} more"] if more > 0 else lines

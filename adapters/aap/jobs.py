"""A job, or a workflow's: how far it is, how it ends, and why it failed."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adapters.aap.api import Api
from adapters.aap.nodes import (
    ENDED,
    WORKFLOW,
    Nodes,
    Part,
    artifacts_of,
    events_of,
    nodes_of,
    shown,
)
from adapters.aap.output import (
    TEXT_MAX,
    ending,
    failed_task,
    last_line,
    lines_of,
)
from adapters.contract import (
    RESULT_UNREADABLE,
    TARGET_FAILED,
    CallFailedError,
    Known,
    Report,
    Result,
)

EVERY_S: Final = 1.0
EVERY_MAX_S: Final = 5.0
LONGER: Final = 1.2
EVENTS_MAX: Final = 50
TRIES: Final = 5
CANCEL_EVERY_S: Final = 0.5
CANCEL_EVERY_MAX_S: Final = 30.0
NOT_ALLOWED: Final = 405
"""The controller's answer to a cancel of what cannot be cancelled, such as a job that has ended."""


class Job:
    """One job."""

    def __init__(self, api: Api, said: Mapping[str, Any]) -> None:
        self._api = api
        self._said = said
        self._is_workflow = said.get("type") == WORKFLOW
        self._path = f"{'workflow_jobs' if self._is_workflow else 'jobs'}/{said['id']}/"
        self._counter = 0
        self._tasks = 0

    @property
    def name(self) -> str:
        """For people."""
        kind = "Workflow job" if self._is_workflow else "Job"
        return f"{kind} {self._said['id']} ({self._said.get('name')})"

    @property
    def link(self) -> str:
        """Where a person sees it."""
        return self._api.link(self._said)

    @property
    def status(self) -> str:
        """As it was seen last."""
        return self._said["status"]

    async def follow(self, report: Report) -> Result:
        """Look until it has ended; a broken exchange is no end.

        Raises:
            CallFailedError: it failed.
        """
        await report.progress(None, None, f"{self.name}: {self.link}")
        await self._tell_run(report)
        every_s, status = EVERY_S, ""
        while self.status not in ENDED:
            await asyncio.sleep(every_s)
            every_s = min(EVERY_MAX_S, every_s * LONGER)
            try:
                self._said = await self._api.get(self._path)
                if self.status != status:
                    status = self.status
                    await report.progress(None, None, f"{self.name} is {status}")
                    await self._tell_run(report)
                if status == "running":
                    await self._tell(report)
            except CallFailedError as error:
                if error.known is Known.REFUSED:
                    raise _lost(self.name, error) from None
        return await self.outcome()

    async def outcome(self) -> Result:
        """What came of it, now that it has ended.

        Raises:
            CallFailedError: it failed.
        """
        if self.status != "successful":
            raise await self._failed()
        return Result(value=await self._value())

    async def end(self) -> None:
        """Have it ended, and look until it has; asked again while the controller is away.

        Raises:
            CallFailedError: the controller refuses.
        """
        pause_s = CANCEL_EVERY_S
        while self.status not in ENDED:
            try:
                self._said = await self._api.get(self._path)
                if self.status in ENDED:
                    return
                await self._api.post(f"{self._path}cancel/", {})
            except CallFailedError as error:
                refused = error.known is Known.REFUSED
                if refused and error.details.get("status") != NOT_ALLOWED:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(CANCEL_EVERY_MAX_S, pause_s * LONGER)

    async def _tell(self, report: Report) -> None:
        """The tasks that have begun since, or a workflow's nodes."""
        if self._is_workflow:
            nodes = await nodes_of(self._api, self._path)
            words = f"{nodes.over} of its nodes have ended"
            await report.progress(nodes.over, nodes.total or None, words)
            return
        asked: dict[str, Any] = {"order_by": "counter", "counter__gt": self._counter}
        said = await self._api.get(f"{self._path}job_events/", page_size=EVENTS_MAX, **asked)
        for event in said["results"]:
            self._counter = max(self._counter, event["counter"])
            data = event.get("event_data") or {}
            if event["event"] == "playbook_on_task_start":
                self._tasks += 1
                await report.progress(self._tasks, None, str(data.get("task")))

    async def _tell_run(self, report: Report) -> None:
        """How it fares, for whoever looks at the command."""
        await report.tell_run(f"job:{self._said['id']}", self.status, self.link)

    async def _value(self) -> dict[str, Any]:
        artifacts, output = await (self._kept_by_nodes() if self._is_workflow else self._kept())
        job = {"id": self._said["id"], "status": self.status, "link": self.link}
        return {"job": job, "artifacts": artifacts, "output": output}

    async def _kept(self) -> tuple[Mapping[str, Any], str]:
        events = await events_of(self._api, "job", self._said["id"])
        return shown(self._said.get("artifacts")), ending(lines_of(events))

    async def _kept_by_nodes(self) -> tuple[Mapping[str, Any], str]:
        try:
            nodes = await self._nodes()
        except CallFailedError as error:
            words = f"{self.name} is done; what its nodes have kept cannot be had: {error.message}"
            raise CallFailedError(Known.DONE, RESULT_UNREADABLE, words) from None
        artifacts = await artifacts_of(self._api, nodes.parts)
        return artifacts, told_by(nodes, await self._events_of(nodes.told))

    async def _failed(self) -> CallFailedError:
        """Why: the controller's own words, then the failed task's; of a workflow, its node's."""
        words = [f"{self.name} has ended {self.status!r}.", *_explained(self._said)]
        details: dict[str, Any] = {"job": self._said["id"], "status": self.status}
        details["link"] = self.link
        if self._is_workflow:
            nodes = await self._nodes_if_any()
            events = await self._events_of(nodes.told)
            details["output"] = told_by(nodes, events)
            words += await self._why(nodes.told)
        else:
            events = await events_of(self._api, "job", self._said["id"])
            details["output"] = ending(lines_of(events))
        task = failed_task(events)
        if task is not None:
            words.append(f"Task {task['task']!r} on {task['host']}: {task['message']}")
            details["task"] = task
        else:
            words.append(" | ".join(lines_of(events)[-5:]))
        message = " ".join(filter(None, words))[:TEXT_MAX]
        return CallFailedError(Known.REFUSED, TARGET_FAILED, message, details=details)

    async def _nodes(self) -> Nodes:
        """Asked for again while the controller is away for a moment.

        Raises:
            CallFailedError: it refuses, or is away for longer.
        """
        for _ in range(TRIES - 1):
            try:
                return await nodes_of(self._api, self._path)
            except CallFailedError as error:
                if error.known is Known.REFUSED:
                    raise
            await asyncio.sleep(EVERY_S)
        return await nodes_of(self._api, self._path)

    async def _nodes_if_any(self) -> Nodes:
        try:
            return await self._nodes()
        except CallFailedError:
            return Nodes(parts=(), over=0, total=0)  # what is said of its end is said without them

    async def _events_of(self, part: Part | None) -> Sequence[dict[str, Any]]:
        return [] if part is None else await events_of(self._api, part.type, part.id)

    async def _why(self, part: Part | None) -> list[str]:
        """Of a workflow's node that failed."""
        if part is None:
            return []
        try:
            return [f"{part.line}.", *_explained(await self._api.get(part.path))]
        except CallFailedError:
            return [f"{part.line}."]


def told_by(nodes: Nodes, events: Sequence[Mapping[str, Any]]) -> str:
    """A workflow's output: its jobs, then the last lines of the one that says most."""
    head = "\n".join(nodes.lines)[: TEXT_MAX // 2]
    lines = ending(lines_of(events), TEXT_MAX - len(head) - 1)
    return "\n".join(filter(None, (head, lines)))


def _explained(said: Mapping[str, Any]) -> list[str]:
    return [str(said.get("job_explanation") or ""), last_line(said.get("result_traceback"))]


def _lost(name: str, error: CallFailedError) -> CallFailedError:
    words = f"{name} is followed no more: {error.message}"
    return CallFailedError(Known.UNKNOWN, error.code, words, details=error.details)

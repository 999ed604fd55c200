"""A job, or a workflow's: how far it is, how it ends, and why it failed."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adapters.aap.api import Api
from adapters.contract import TARGET_FAILED, CallFailedError, Known, Report, Result

EVERY_S: Final = 1.0
EVERY_MAX_S: Final = 5.0
LONGER: Final = 1.2
ENDED: Final = frozenset({"successful", "failed", "error", "canceled"})
FAILED: Final = frozenset({"runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"})
EVENTS_MAX: Final = 50
LINES_MAX: Final = 20
TEXT_MAX: Final = 4000


class Job:
    """One job."""

    def __init__(self, api: Api, said: Mapping[str, Any]) -> None:
        self._api = api
        self._said = said
        self._is_workflow = said.get("type") == "workflow_job"
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

    async def follow(self, report: Report) -> Result:
        """Look until it has ended; a broken exchange is no end.

        Raises:
            CallFailedError: it failed.
        """
        await report.progress(None, None, f"{self.name}: {self.link}")
        await self._tell_run(report)
        every_s, status = EVERY_S, ""
        while self._said["status"] not in ENDED:
            await asyncio.sleep(every_s)
            every_s = min(EVERY_MAX_S, every_s * LONGER)
            try:
                self._said = await self._api.get(self._path)
                if self._said["status"] != status:
                    status = self._said["status"]
                    await report.progress(None, None, f"{self.name} is {status}")
                    await self._tell_run(report)
                if status == "running":
                    await self._tell(report)
            except CallFailedError as error:
                if error.known is Known.REFUSED:
                    raise _lost(self.name, error) from None
        if self._said["status"] != "successful":
            raise await self._failed()
        return Result(value=await self._value())

    async def cancel(self) -> None:
        """End it."""
        if self._said["status"] not in ENDED:
            await self._api.post(f"{self._path}cancel/", {})

    async def _tell(self, report: Report) -> None:
        """The tasks that have begun since, or a workflow's nodes."""
        if self._is_workflow:
            nodes = await self._nodes()
            over = sum(one.get("status") in ENDED for one in nodes)
            await report.progress(over, len(nodes) or None, f"{over} of its nodes have ended")
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
        await report.tell_run(f"job:{self._said['id']}", self._said["status"], self.link)

    async def _value(self) -> dict[str, Any]:
        lines = [] if self._is_workflow else lines_of(await self._events(self._said["id"]))
        return {
            "job": {"id": self._said["id"], "status": self._said["status"], "link": self.link},
            "artifacts": self._said.get("artifacts") or {},
            "output": ending(lines),
        }

    async def _failed(self) -> CallFailedError:
        """Why: the controller's own words, then the failed task's."""
        status = self._said["status"]
        words = [f"{self.name} has ended {status!r}.", self._said.get("job_explanation") or ""]
        failed = [self._said["id"]]
        if self._is_workflow:
            failed = [one["id"] for one in await self._nodes() if one.get("status") in BROKEN]
        events = [event for one in failed[:1] for event in await self._events(one)]
        task = failed_task(events)
        details = {"job": self._said["id"], "status": status, "link": self.link}
        details["output"] = ending(lines_of(events))
        if task is not None:
            words.append(f"Task {task['task']!r} on {task['host']}: {task['message']}")
            details["task"] = task
        else:
            words.append(" | ".join(lines_of(events)[-5:]))
        message = " ".join(filter(None, words))[:TEXT_MAX]
        return CallFailedError(Known.REFUSED, TARGET_FAILED, message, details=details)

    async def _nodes(self) -> list[dict[str, Any]]:
        nodes = await self._api.every(f"{self._path}workflow_nodes/")
        jobs = [(node.get("summary_fields") or {}).get("job") for node in nodes]
        return [job for job in jobs if job]

    async def _events(self, job: int) -> Sequence[dict[str, Any]]:
        """The newest events of a job, newest first."""
        try:
            said = await self._api.get(
                f"jobs/{job}/job_events/", order_by="-counter", page_size=EVENTS_MAX
            )
        except CallFailedError:
            return []  # what is said of its end is said without them
        return said["results"]


BROKEN: Final = ENDED - {"successful"}


def failed_task(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The task that failed last; of one with no_log the message is not to be had."""
    for event in events:
        data = event.get("event_data") or {}
        result = data.get("res") or {}
        if event["event"] in FAILED and result.get("msg"):
            named = {"task": data.get("task"), "host": data.get("host")}
            return named | {"message": str(result["msg"])[:TEXT_MAX]}
    return None


def lines_of(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The end of the output, of events that come newest first."""
    texts = [str(event.get("stdout") or "") for event in reversed(events)]
    return [line.rstrip() for text in texts for line in text.splitlines() if line.strip()]


def ending(lines: Sequence[str]) -> str:
    """As much of the output as people look at first."""
    return "\n".join(lines[-LINES_MAX:])[-TEXT_MAX:]


def _lost(name: str, error: CallFailedError) -> CallFailedError:
    words = f"{name} is followed no more: {error.message}"
    return CallFailedError(Known.UNKNOWN, error.code, words, details=error.details)

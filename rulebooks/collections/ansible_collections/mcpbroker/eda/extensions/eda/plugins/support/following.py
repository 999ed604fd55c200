"""Follows the controller's jobs of commands, and tells the broker how they fare.

A job that has claimed its command speaks for itself. This tells what it cannot: that it waits its
turn (else the broker sends the command again), and that it is over without a last word, with what
the controller says of the reason.

What there is to follow stands at the controller, so a process that is started again goes on: at
the start and from time to time it looks for the jobs that are under way, whoever has launched them.
All jobs together cost a request at each look, each that is done two more, a workflow one for its
nodes too. The token needs Execute on the templates, no more.
"""

import asyncio
import logging
import re
import runpy
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

logger = logging.getLogger("mcpbroker.eda.control")

EVERY_S = 2.0
SWEEP_S = 30.0
# While a job is neither claimed nor over, so often: well within the broker's lease.
RENEW_S = 20.0
# So long the last lines of a job are waited for that has ended.
SETTLE_S = 5.0
# What ended while no process was there to see it.
LOOK_BACK_S = 900.0
PAGE = 200
ASKED_MAX = 100
MISSED_MAX = 3
EVENTS_MAX = 50
NESTED_MAX = 3
WORDS_MAX = 2000
LINES_MAX = 20
LOG_MAX = 4000

ACTIVE = "new,pending,waiting,running"
ENDED = frozenset({"successful", "failed", "error", "canceled", "deleted"})
ENDED_STATES = frozenset({"succeeded", "failed", "cancelled", "timed_out", "dead_lettered"})
UNWANTED = frozenset({"cancelled", "timed_out"})
UNCLAIMED = frozenset({"", "queued", "dispatched"})
FAILED_EVENTS = frozenset({"runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"})
HIDDEN = "censored"
# Colours, and what the broker takes in no text.
UNTOLD = re.compile("\x1b\\[[0-9;]*m|[\x00\ud800-\udfff]")
COMMAND_OF = runpy.run_path(str(Path(__file__).with_name("launches.py")))["command_of"]
NODES = runpy.run_path(str(Path(__file__).with_name("nodes.py")))


@dataclass(frozen=True)
class Last:
    """What there is of a job that has ended: a workflow's jobs, and whose events tell of it."""

    parts: list[dict[str, Any]]
    of: dict[str, Any] | None
    events: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        """Of a workflow, the runs that it is made of, one of which may have claimed."""
        return [f"job:{one['id']}" for one in self.parts[:PAGE]]

    @property
    def log(self) -> str:
        """What people look at first, as the broker takes it."""
        head = UNTOLD.sub("", "\n".join(NODES["lines_of"](self.parts)))[: LOG_MAX // 2]
        lines = "\n".join(output(self.events)[-LINES_MAX:])[-(LOG_MAX - len(head) - 1) :]
        return "\n".join(filter(None, (head, lines)))


@dataclass
class Job:
    """A job, or a workflow's, and what was said of it."""

    id: int
    is_workflow: bool
    url: str
    link: str
    command: tuple[str, int]
    status: str = ""
    said: str = ""
    said_at: float = 0.0
    state: str = ""
    missed: int = 0
    last: Last | None = None
    ended_at: float = 0.0

    @property
    def path(self) -> str:
        """Below the API's."""
        return f"{'workflow_jobs' if self.is_workflow else 'jobs'}/{self.id}/"

    @property
    def name(self) -> str:
        """For people."""
        return f"{'Workflow job' if self.is_workflow else 'Job'} {self.id}"

    def is_due(self, now: float) -> bool:
        """Whether there is something to say of it."""
        renew = self.state in UNCLAIMED and now - self.said_at >= RENEW_S
        return self.status != self.said or renew

    def word(self) -> dict[str, Any]:
        """How it fares."""
        word = {"run": f"job:{self.id}", "status": self.status, "link": self.link}
        return word | {"correlation_id": self.command[0], "attempt": self.command[1]}


class Follower:
    """Follows jobs until cancelled."""

    def __init__(self, api: Any, broker: Any, *, every_s: float, sweep_s: float) -> None:
        self._api = api
        self._broker = broker
        self._every_s = every_s
        self._sweep_s = sweep_s
        self._jobs: dict[int, Job] = {}
        self._others: set[int] = set()  # under way, and no command's
        self._swept_at: float | None = None
        self._away = False
        self._news = asyncio.Event()

    def follow(self, job: dict[str, Any], correlation_id: str, attempt: int) -> None:
        """From now on; a job as the controller's answer to its launch has it."""
        self._add(job, (correlation_id, attempt))
        self._news.set()

    def waiting(self, correlation_id: str, attempt: int) -> str | None:
        """The address of a job that is under way for an attempt."""
        for job in self._jobs.values():
            if job.command == (correlation_id, attempt) and job.status not in ENDED:
                return job.url
        return None

    async def run(self) -> None:
        """Look again and again; nothing that fails ends it."""
        while True:
            try:
                await self.look()
                self._away = False
            except self._api.Away as error:
                if not self._away:
                    logger.warning("jobs are not followed, tried again: %s", error)
                self._away = True
            except RuntimeError as error:
                logger.error("jobs are not followed: %s", error)  # noqa: TRY400 one line
                await asyncio.sleep(self._sweep_s)
            except Exception:
                logger.exception("jobs are not followed")
                await asyncio.sleep(self._sweep_s)
            # Without a job there is nothing to ask for but what others have launched.
            pause_s = self._every_s if self._jobs else self._sweep_s
            try:
                await asyncio.wait_for(self._news.wait(), pause_s)
                await asyncio.sleep(min(self._every_s, 0.2))  # others' launches come along
            except asyncio.TimeoutError:
                pass
            self._news.clear()

    async def look(self) -> None:
        """Ask once, and tell what there is to tell."""
        now = time.monotonic()
        if self._swept_at is None or now - self._swept_at >= self._sweep_s:
            await self._sweep(first=self._swept_at is None)
            self._swept_at = now
        await self._ask()
        due = [job for job in self._jobs.values() if job.is_due(now)]
        if due:
            await self._tell(due, now)

    # What there is

    async def _sweep(self, *, first: bool) -> None:
        found = await self._list(status__in=ACTIVE)
        self._others &= {job["id"] for job in found}
        if first:
            since = datetime.now(timezone.utc) - timedelta(seconds=LOOK_BACK_S)
            found += await self._list(finished__gt=since.isoformat().replace("+00:00", "Z"))
        for job in found:
            if job["id"] in self._jobs or job["id"] in self._others:
                continue
            # Of a workflow's node the workflow is followed; later releases list no variables.
            command = None
            if job.get("launch_type") != "workflow":
                whole = job if "extra_vars" in job else await self._api.get(_path(job))
                command = COMMAND_OF(whole)
            if command is None:
                self._others.add(job["id"])
            else:
                self._add(job, command)

    async def _list(self, **asked: Any) -> list[dict[str, Any]]:
        asked |= {"type": "job,workflow_job", "order_by": "-id", "page_size": PAGE}
        return (await self._api.get("unified_jobs/", **asked))["results"]

    async def _ask(self) -> None:
        ids = [job.id for job in self._jobs.values() if job.status not in ENDED]
        for n in range(0, len(ids), ASKED_MAX):
            some = ids[n : n + ASKED_MAX]
            found = await self._list(id__in=",".join(map(str, some)))
            known = {job["id"]: job["status"] for job in found}
            for one in some:
                job = self._jobs[one]
                job.missed = 0 if one in known else job.missed + 1
                job.status = known.get(one, job.status if job.missed < MISSED_MAX else "deleted")

    def _add(self, job: dict[str, Any], command: tuple[str, int]) -> None:
        self._jobs[job["id"]] = Job(
            id=job["id"],
            is_workflow=job.get("type") == "workflow_job",
            url=job["url"],
            link=self._api.link(job),
            command=command,
            status=job.get("status") or "new",
        )

    # What there is to tell

    async def _tell(self, jobs: list[Job], now: float) -> None:
        told = [(job, await self._shown(job, now)) for job in jobs]
        due = [(job, shown) for job, shown in told if shown is not None]
        if not due:
            return
        words = [{"op": "run", **job.word(), **shown} for job, shown in due]
        answers = await self._broker.batch(words)
        for (job, _), answer in zip(due, answers, strict=True):
            if answer["status"] >= 500:
                continue  # it is said again at the next look
            job.said, job.said_at, job.state = job.status, now, answer.get("state") or ""
            # Of a workflow it is a node that claims.
            counts = answer["status"] < 300 and (answer["counts"] or job.is_workflow)
            if not counts:
                del self._jobs[job.id]
            elif job.status in ENDED:
                if job.state not in ENDED_STATES and not await self._end(job):
                    job.said = ""
                    continue
                del self._jobs[job.id]
            elif job.state in UNWANTED and job.status != "running":
                await self._unwanted(job)

    async def _end(self, job: Job) -> bool:
        """Tell why a job is over that has said no last word; whether the broker took it."""
        claimed = job.state == "running"
        last = job.last
        assert last is not None, "it was shown before"
        when = "after its claim, and has told no result" if claimed else "before its claim"
        why = await self._why(job, last)
        message = UNTOLD.sub("", f"{job.name} has ended {job.status!r} {when}. {why}").strip()
        error = {
            "code": "job_cancelled" if job.status == "canceled" else "job_failed",
            "message": message[:WORDS_MAX],
            # What a person stopped is not begun again, nor what fails alike each time.
            "retryable": job.status == "error" or (claimed and job.status != "canceled"),
        }
        if last.log:
            error["details"] = {"output": last.log}
        word = job.word() | {"parts": last.names, "error": error}
        [answer] = await self._broker.batch([{"op": "run", **word}])
        if answer.get("counts"):
            logger.warning("command %s: %s", job.command[0], error["message"])
        return answer["status"] < 500

    async def _shown(self, job: Job, now: float) -> dict[str, Any] | None:
        """The last lines of a job that has ended; None while the controller keeps its output."""
        if job.status not in ENDED:
            return {}
        job.ended_at = job.ended_at or now
        job.last = await self._last(job, patient=now - job.ended_at < SETTLE_S)
        if job.last is None:
            return None
        shown = {"log": job.last.log, "parts": job.last.names}
        return {name: value for name, value in shown.items() if value}

    async def _last(self, job: Job, *, patient: bool) -> Last | None:
        said: dict[str, Any] | None = {"id": job.id, "type": "job"}
        parts: list[dict[str, Any]] = []
        if job.is_workflow:
            parts = await self._parts(job.path)
            said = NODES["telling"](parts)
        if said is None:
            return Last(parts, said, [])
        if patient and not await self._is_kept(NODES["path_of"](said)):
            return None
        return Last(parts, said, await self._events(said))

    async def _is_kept(self, path: str) -> bool:
        """The controller ends a job before it has kept the last of its events."""
        try:
            said = await self._api.get(path)
        except self._api.Refused:
            return True
        return said.get("event_processing_finished") is not False

    async def _events(self, said: dict[str, Any]) -> list[dict[str, Any]]:
        """The newest of a job's events, newest first."""
        place = NODES["events_of"](said)
        if place is None:
            return []
        asked = {"order_by": "-counter", "page_size": EVENTS_MAX}
        try:
            return (await self._api.get(place, **asked))["results"]
        except self._api.Refused:
            return []

    async def _unwanted(self, job: Job) -> None:
        """A job that waits, of a command that has ended: it would have nothing to do."""
        try:
            await self._api.post(f"{job.path}cancel/", fine=(200, 202, 405))
        except RuntimeError as error:
            logger.warning("job %s is not cancelled: %s", job.id, error)
        del self._jobs[job.id]

    async def _parts(self, path: str, nested: int = 0) -> list[dict[str, Any]]:
        """The jobs that a workflow is made of, those of a nested workflow after it."""
        parts: list[dict[str, Any]] = []
        try:
            nodes = await self._api.get(f"{path}workflow_nodes/", order_by="id", page_size=PAGE)
        except self._api.Refused:
            return []
        for said in filter(None, map(NODES["said_by"], nodes["results"])):
            parts.append(said)
            if said["type"] == "workflow_job" and nested < NESTED_MAX:
                parts += await self._parts(NODES["path_of"](said), nested + 1)
        return parts

    async def _why(self, job: Job, last: Last) -> str:
        """What the controller says of a job's end: its own words, then its failed task's."""
        words = await self._explained(job.path)
        if last.parts and last.of is not None:
            words += [f"{NODES['line_of'](last.of)}."]
            words += await self._explained(NODES["path_of"](last.of))
        return " ".join([*words, told_by(last.events)]).strip()

    async def _explained(self, path: str) -> list[str]:
        try:
            said = await self._api.get(path)
        except self._api.Refused:
            return []
        found = [said.get("job_explanation"), last_line(said.get("result_traceback"))]
        return [one for one in found if one]


def _path(job: dict[str, Any]) -> str:
    return f"{'workflow_jobs' if job.get('type') == 'workflow_job' else 'jobs'}/{job['id']}/"


def last_line(text: str | None) -> str:
    """Of a traceback, what was raised."""
    lines = (text or "").strip().splitlines()
    return lines[-1].strip() if lines else ""


def told_by(events: list[dict[str, Any]]) -> str:
    """The message of the task that failed last, or the end of the output; the newest come first."""
    for event in events:
        if event.get("event") in FAILED_EVENTS:
            data = event.get("event_data") or {}
            result = data.get("res") or {}
            if data.get("ignore_errors"):
                continue
            if HIDDEN not in result and result.get("msg"):
                where = f"Task {data.get('task')!r} on {data.get('host')}"
                verb = "UNREACHABLE" if "unreachable" in event["event"] else "failed"
                return f"{where} {verb}: {result['msg']}"[:WORDS_MAX]
    return " | ".join(line.strip() for line in output(events))[-WORDS_MAX // 2 :]


def output(events: list[dict[str, Any]]) -> list[str]:
    """The lines that a job has written, of events that come newest first."""
    texts = [UNTOLD.sub("", event.get("stdout") or "") for event in reversed(events)]
    return [line.rstrip() for text in texts for line in text.splitlines() if line.strip()]

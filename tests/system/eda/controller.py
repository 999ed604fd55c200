"""An automation controller's API, as far as ansible-rulebook and our parts speak it.

It answers as AWX does where that matters (https://github.com/ansible/awx, awx/api): a template
without "prompt on launch" drops variables and says so in `ignored_fields`; what is missing to start
answers 400, and so does what a survey does not take; a template without concurrent jobs queues;
lists leave out heavy fields and have pages; a workflow's node is a job of its own, and its job has
neither output nor artifacts; only what the token may execute is seen.

A job is a real process (an ansible-playbook with the launch's extra variables and `awx_job_id`),
unless a test says how it ends.
"""

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.system.eda import surveys
from tests.system.eda.http_server import serving
from tests.system.eda.templates import API, Template

Run = Callable[[str, Mapping[str, Any]], subprocess.Popen[str]]
"""(template, extra variables) -> the job's process."""
Answer = tuple[int, Any]

TOKEN = "the-controllers-token"
ENDED = frozenset({"successful", "failed", "error", "canceled"})
EVENTS = {"job": "job_events", "project_update": "events"}
PAGE = 25
PAGE_MAX = 200


@dataclass(slots=True)
class Job:
    id: int
    template: str
    extra_vars: dict[str, Any]
    process: subprocess.Popen[str] | None
    launched_with: dict[str, Any] = field(default_factory=dict[str, Any])
    cancelled: bool = False
    workflow: int | None = None
    told: str | None = None  # the status, where a test says it
    explanation: str = ""
    traceback: str = ""
    artifacts: dict[str, Any] | str = field(default_factory=dict[str, Any])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    nodes: "list[Job]" = field(default_factory=list)
    type: str = "job"
    waiting_nodes: int = 0  # of a workflow: those that have no job yet
    unkept: int = 0  # so often it is seen ended before its events are kept

    @property
    def is_workflow(self) -> bool:
        return self.type == "workflow_job"

    @property
    def status(self) -> str:
        if self.told is not None:
            return self.told
        code = None if self.process is None else self.process.poll()
        if code is None:
            return "running"
        return "canceled" if self.cancelled else "failed" if code else "successful"

    def end(self, status: str, *, explanation: str = "", traceback: str = "") -> None:
        """As the controller sees it end."""
        self.told, self.explanation, self.traceback = status, explanation, traceback
        if self.process is not None:
            self.process.kill()

    def event(self, kind: str, stdout: str = "", **data: Any) -> None:
        self.events.append(
            {
                "counter": len(self.events) + 1,
                "event": kind,
                "failed": kind.endswith(("_failed", "_unreachable")),
                "event_data": data,
                "stdout": stdout,
            }
        )

    def view(self, *, whole: bool = True) -> dict[str, Any]:
        kind = self.type
        related = {"stdout": f"{API}/{kind}s/{self.id}/stdout/"}
        if self.workflow:
            related["source_workflow_job"] = f"{API}/workflow_jobs/{self.workflow}/"
        ended = self.status in ENDED
        view = {
            "id": self.id,
            "type": kind,
            "name": self.template,
            "url": f"{API}/{kind}s/{self.id}/",
            "status": self.status,
            "created": "2030-01-01T00:00:00Z",
            "finished": datetime.now(UTC).isoformat() if ended else None,
            "launch_type": "workflow" if self.workflow else "manual",
            "job_explanation": self.explanation,
            "related": related,
        }
        if not whole:
            return view
        view |= {
            "extra_vars": orjson.dumps(self.extra_vars).decode(),
            "result_traceback": self.traceback,
        }
        return view | ({"artifacts": self.artifacts} if self.type == "job" else {})

    def as_node(self) -> dict[str, Any]:
        """As a node shows its job (SUMMARIZABLE_FK_FIELDS)."""
        said = {"id": self.id, "name": self.template, "description": "", "status": self.status}
        return said | {"failed": self.status in ENDED - {"successful"}, "type": self.type}

    def workflow_view(self) -> dict[str, Any]:
        """Of the workflow job that it is a node of: launched with its variables."""
        return self.view() | {"id": self.workflow, "type": "workflow_job", "related": {}}

    def output(self) -> list[dict[str, Any]]:
        """What a test says that it has said, or what its process has."""
        stdout = None if self.process is None else self.process.stdout
        if not self.events and self.process is not None and stdout and not stdout.closed:
            if self.process.poll() is None:
                return []
            for line in self.process.communicate()[0].splitlines():
                self.event("verbose", line)
        return self.events


@dataclass(slots=True)
class Controller:
    """The server; a job template that is asked for is there, unless it is among `missing`."""

    run: Run
    jobs: list[Job] = field(default_factory=list[Job])
    templates: dict[str, Template] = field(default_factory=dict[str, Template])
    missing: set[str] = field(default_factory=set[str])
    url: str = ""
    away: int = 0  # answers 503 to so many requests
    away_after_cancel: int = 0
    silent: int = 0  # leaves so many requests without an answer
    token: str = TOKEN
    labels: list[str] = field(default_factory=list[str])
    may_label: bool = True
    may_cancel: bool = True
    posts: list[str] = field(default_factory=list[str])
    gets: list[str] = field(default_factory=list[str])
    _serving: ExitStack = field(default_factory=ExitStack)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.url = self._serving.enter_context(serving(self._checked))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._serving.close()
        for job in self.jobs:
            if job.process is not None:
                job.process.kill()
                if job.process.stdout is None or job.process.stdout.closed:
                    job.process.wait()  # what it said was asked for
                else:
                    job.process.communicate()

    def _checked(self, method: str, target: str, body: Any, authorization: str | None) -> Answer:
        if authorization != f"Bearer {self.token}":
            return 401, {"detail": "Authentication credentials were not provided."}
        if self.away > 0:
            self.away -= 1
            return 503, {}
        if self.silent > 0:
            self.silent -= 1
            self._over.wait()
        (self.posts if method == "POST" else self.gets).append(target)
        return self.answer(method, target, body)

    def answer(self, method: str, target: str, body: Any) -> Answer:  # noqa: C901, PLR0911 routes
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        match [method, *url.path.removeprefix(API).strip("/").split("/")]:
            case ["GET", "config"]:
                return 200, {"version": "4.6.0"}
            case ["GET", "unified_job_templates"]:
                return page(self._named(query), query)
            case ["POST", "job_templates" | "workflow_job_templates", name, "launch"]:
                return self._launch(self.template(name), body)
            case ["GET", "job_templates" | "workflow_job_templates" as kind]:
                templates = [one.view() for one in self.templates.values()]
                found = [one for one in templates if f"{one['type']}s" == kind]
                return page(found, query)
            case ["GET", "job_templates" | "workflow_job_templates", name]:
                found = self.template(name)
                return (404, {}) if name == found.name else (200, found.view())
            case ["GET", "job_templates" | "workflow_job_templates", name, "survey_spec"]:
                return 200, {"name": "", "description": "", "spec": self.template(name).survey}
            case ["GET" | "POST", "labels"]:
                return self._label(method, (query | body)["name"])
            case ["GET", "jobs" | "unified_jobs" as route]:
                return self._listed(query, whole=route == "jobs")
            case ["GET", "workflow_jobs", number] if self._find(number) is None:
                return 200, self.node(number).workflow_view()
            case ["POST", "workflow_jobs", number, "cancel"] if self._find(number) is None:
                return self._cancel(self.node(number))
            case [_, kind, number, *rest] if number.isdecimal():
                job = self._find(number)
                there = job is not None and kind == f"{job.type}s"
                return self._about(method, job, rest, query) if job and there else (404, {})
            case _:
                return 404, {}

    def _about(self, method: str, job: Job, rest: list[str], query: Mapping[str, str]) -> Answer:
        match [method, *rest]:
            case ["GET"]:
                job.unkept -= job.unkept > 0 and job.status in ENDED
                return 200, job.view() | {"event_processing_finished": job.unkept == 0}
            case ["POST", "cancel"]:
                return self._cancel(job) if self.may_cancel else (403, {"detail": "No."})
            case ["GET", "job_events" | "events" as kind] if kind == EVENTS.get(job.type):
                after = int(query.get("counter__gt", 0))
                kept = [] if job.unkept else job.output()
                found = [event for event in kept if event["counter"] > after]
                found.sort(key=_counter, reverse=query.get("order_by", "").startswith("-"))
                return page(found, query)
            case ["GET", "workflow_nodes"] if job.is_workflow:
                begun = [{"job": n.id, "summary_fields": {"job": n.as_node()}} for n in job.nodes]
                bare = [{"job": None, "summary_fields": {}} for _ in range(job.waiting_nodes)]
                return page([one | {"do_not_run": False} for one in begun + bare], query)
            case _:
                return 404, {}

    def _label(self, method: str, name: str) -> Answer:
        if method == "POST":
            if not self.may_label:
                return 403, {"detail": "You do not have permission to perform this action."}
            if name in self.labels:
                words = "Label with this Name and Organization already exists."
                return 400, {"__all__": [words]}
            self.labels.append(name)
            return 201, {"id": len(self.labels), "name": name}
        ids = [n for n, one in enumerate(self.labels, 1) if one == name]
        return page([{"id": n, "name": name} for n in ids], {})

    def _cancel(self, job: Job) -> Answer:
        if job.status in ENDED:
            return 405, {}
        job.cancelled = True
        self.away = self.away_after_cancel
        if job.process is None or job.status == "pending":
            job.told = "canceled"
        if job.process is not None:
            job.process.terminate()
        return 202, {}

    def template(self, name: str) -> Template:
        if name.isdecimal():
            found = (one for one in self.templates.values() if one.number == int(name))
            return next(found, Template(name))
        return self.templates.get(name) or Template(name)

    def _named(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        if "name" not in query:
            kinds = query.get("type", "").split(",")
            return [one.view() for one in self.templates.values() if one.kind in kinds]
        name = query["name"]
        return [] if name in self.missing else [self.template(name).view()]

    def _launch(self, template: Template, body: dict[str, Any]) -> Answer:
        if template.lacks:
            return 400, template.lacks
        given: dict[str, Any] = body.get("extra_vars") or {}
        if isinstance(given, str):
            given = orjson.loads(given)
        asked = {question["variable"] for question in template.survey}
        if wrong := surveys.problems(template.survey, given):
            return 400, {"variables_needed_to_start": wrong}
        if template.inventory is None and "inventory" not in body and not template.workflow:
            words = "Job Template inventory is missing or undefined."
            return 400, {"resources_needed_to_start": [words]}
        taken = {k: v for k, v in given.items() if template.ask_variables or k in asked}
        ignored: dict[str, Any] = {k: v for k, v in body.items() if not _asks(template, k)}
        if taken != given:
            ignored["extra_vars"] = {k: v for k, v in given.items() if k not in taken}
        job = self.start(template, taken)
        job.launched_with = {k: v for k, v in body.items() if k not in ignored}
        return 201, job.view() | {"job": job.id, "ignored_fields": ignored}

    def start(self, template: Template, variables: dict[str, Any]) -> Job:
        """A job of a template; pending where another of it is under way."""
        job = Job(len(self.jobs) + 1, template.name, variables, None)
        flows = template.workflow or template.slices > 1
        job.type = "workflow_job" if flows else "job"
        busy = any(one.template == job.template and one.status not in ENDED for one in self.jobs)
        self.jobs.append(job)
        if busy and not template.concurrent:
            job.told = "pending"
        elif not flows:
            job.process = self.run(template.name, variables | {"awx_job_id": job.id})
        return job

    def _listed(self, query: Mapping[str, str], *, whole: bool) -> Answer:
        jobs = list(self.jobs)
        if ids := query.get("id__in"):
            jobs = [job for job in jobs if str(job.id) in ids.split(",")]
        if statuses := query.get("status__in"):
            jobs = [job for job in jobs if job.status in statuses.split(",")]
        if "finished__gt" in query:
            jobs = [job for job in jobs if job.status in ENDED]
        return page([job.view(whole=whole) for job in jobs], query)

    def _find(self, number: str) -> Job | None:
        return next((job for job in self.jobs if job.id == int(number)), None)

    def node(self, workflow: str) -> Job:
        """The job of a workflow, which has one here."""
        return next(job for job in self.jobs if job.workflow == int(workflow))


def page(results: Sequence[Any], query: Mapping[str, str]) -> Answer:
    size, number = min(int(query.get("page_size", PAGE)), PAGE_MAX), int(query.get("page", 1))
    shown = results[(number - 1) * size : number * size]
    more = f"{API}/?page={number + 1}" if number * size < len(results) else None
    return 200, {"count": len(results), "next": more, "previous": None, "results": shown}


def _counter(event: Mapping[str, Any]) -> int:
    return event["counter"]


def _asks(template: Template, name: str) -> bool:
    named = {"job_tags": "tags", "credentials": "credential"}.get(name, name)
    return name == "extra_vars" or named in template.asks

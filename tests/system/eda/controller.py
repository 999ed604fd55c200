"""The part of an automation controller's job API that ansible-rulebook and our source speak.

A job is a real ansible-playbook, with the launch's extra variables and `awx_job_id`, as AWX
starts it.
"""

import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.system.eda.http_server import serving

Run = Callable[[str, Mapping[str, Any]], subprocess.Popen[str]]
"""(template, extra variables) -> the job's process."""

API = "/api/v2"
TOKEN = "the-controllers-token"


@dataclass(slots=True)
class Job:
    id: int
    template: str
    extra_vars: dict[str, Any]
    process: subprocess.Popen[str]
    cancelled: bool = False

    @property
    def status(self) -> str:
        code = self.process.poll()
        if code is None:
            return "running"
        return "canceled" if self.cancelled else "failed" if code else "successful"

    def view(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "job",
            "url": f"{API}/jobs/{self.id}/",
            "status": self.status,
            "created": "2030-01-01T00:00:00Z",
            "extra_vars": orjson.dumps(self.extra_vars).decode(),
            "artifacts": {},
        }


@dataclass(slots=True)
class Controller:
    """The server; every job template that is asked for is there."""

    run: Run
    jobs: list[Job] = field(default_factory=list[Job])
    url: str = ""
    _serving: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.url = self._serving.enter_context(serving(self._checked))
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.close()
        for job in self.jobs:
            job.process.kill()
            job.process.communicate()

    def _checked(
        self, method: str, target: str, body: Any, authorization: str | None
    ) -> tuple[int, Any]:
        if authorization != f"Bearer {TOKEN}":
            return 401, {}
        return self.answer(method, target, body)

    def answer(  # noqa: PLR0911 a return for each route
        self, method: str, target: str, body: Any
    ) -> tuple[int, Any]:
        url = urlsplit(target)
        query = parse_qs(url.query)
        match [method, *url.path.removeprefix(API).strip("/").split("/")]:
            case ["GET", "config"]:
                return 200, {"version": "4.6.0"}
            case ["GET", "unified_job_templates"]:
                return 200, {"count": 1, "next": None, "results": [template(query["name"][0])]}
            case ["POST", "job_templates", name, "launch"]:
                variables = body["extra_vars"] | {"awx_job_id": len(self.jobs) + 1}
                process = self.run(name, variables)
                job = Job(len(self.jobs) + 1, name, body["extra_vars"], process)
                self.jobs.append(job)
                return 201, job.view()
            case ["GET", "jobs"]:
                asked = [int(one) for one in query["id__in"][0].split(",")]
                found = [job.view() for job in self.jobs if job.id in asked]
                return 200, {"count": len(found), "next": None, "results": found}
            case ["GET", "jobs", number]:
                return 200, self.jobs[int(number) - 1].view()
            case ["POST", "jobs", number, "cancel"]:
                job = self.jobs[int(number) - 1]
                if job.status != "running":
                    return 405, {}
                job.cancelled = True
                job.process.terminate()
                return 202, {}
            case _:
                return 404, {}


def template(name: str) -> dict[str, Any]:
    return {
        "id": 5,
        "type": "job_template",
        "name": name,
        "related": {"launch": f"{API}/job_templates/{name}/launch/"},
        "summary_fields": {"organization": {"name": "Default"}},
        "ask_limit_on_launch": True,
        "ask_labels_on_launch": False,
        "ask_inventory_on_launch": True,
        "ask_variables_on_launch": True,
    }

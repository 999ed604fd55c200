"""A controller's job on its command: who launches it is the worker, and its claim is the fence."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from app.commands.view import view
from app.intake.prepare import CallRequest
from tests.cli.imports.reviewed import broker as cli
from tests.support.approving import OLGA, decide
from tests.support.calls import accept, subject
from tests.support.offers import call, offer, put
from tests.support.stack import wait_for
from tests.system.eda.controller import TOKEN, Controller, Job, Template
from tests.system.worker.conftest import Shop


@pytest.mark.guarantee("adapter:aap")
async def test_a_job_is_seen_on_its_command_with_its_link_and_its_last_lines(shop: Shop) -> None:
    def run(_template: str, _variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(["sleep", "600"], text=True)

    with Controller(run) as controller:
        controller.templates["deploy"] = Template("deploy", number=12)
        credential = {"type": "bearer", "token": "env:AAP_TOKEN"}
        target = {"name": "aap", "kind": "aap", "address": controller.url, "credential": credential}
        adapter = {"kind": "aap", "target": "aap", "template": 12}
        offered = offer(adapter=adapter, targets=[target])
        await put(shop.database, shop.home, offered, broker=shop.broker)
        shop.start(AAP_TOKEN=TOKEN)
        made = (await accept(shop.broker, call())).written.id
        link = f"{controller.url}/#/jobs/playbook/1"

        async def shown(status: str) -> bool:
            run = view(await subject(shop.broker, made)).get("run")
            return run == {"name": "job:1", "status": status, "link": link, "attempt": 1}

        await wait_for(lambda: shown("running"), 20)
        [job] = controller.jobs
        job.event("runner_on_failed", "fatal: no disk", task="Install", host="w", res={"msg": "x"})
        job.end("failed")
        row = await shop.until(made, "failed", "dead_lettered")
        await wait_for(lambda: shown("failed"), 10)
    assert orjson.loads(row["error"])["details"]["output"] == "fatal: no disk"


@pytest.mark.guarantee("adapter:aap")
async def test_what_was_imported_of_a_controller_is_called_and_answers_with_what_it_kept(
    shop: Shop, tmp_path: Path
) -> None:
    """The five steps of docs/AAP.md, but for who calls."""

    def run(_template: str, _variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(["sleep", "600"], text=True)

    survey = [{"type": "text", "variable": "zone", "question_name": "Zone", "required": True}]
    with Controller(run) as controller:
        flow = Template("Roll out", number=12, workflow=True, survey=survey, ask_variables=False)
        controller.templates[flow.name] = flow
        argv = ("catalog", "import", "aap", controller.url, "--bearer", "env:AAP_TOKEN")
        await cli(*argv, "--name", "tools", "--out", tmp_path, AAP_TOKEN=TOKEN)
        await put(
            shop.database,
            shop.home,
            yaml.safe_load((tmp_path / "tools.yml").read_text()),
            broker=shop.broker,
        )
        shop.start(AAP_TOKEN=TOKEN)
        asked = CallRequest(tool="tools", method="Roll_out", args={"zone": "a"})
        made = (await accept(shop.broker, asked)).written.id
        await decide(shop.broker, OLGA, made)

        async def launched() -> list[Job]:
            return controller.jobs

        [job] = await wait_for(launched, 20)
        assert job.extra_vars == {"zone": "a"}
        node = controller.start(Template("part"), {})
        job.nodes.append(node)
        node.artifacts = {"url": "https://app.test"}
        node.event("verbose", "rolled out")
        node.end("successful")
        job.end("successful")
        row = await shop.until(made, "succeeded", "failed", "dead_lettered")
    result = orjson.loads(row["result"])
    assert result["artifacts"] == {"url": "https://app.test"}
    assert result["output"].splitlines() == ["Job 2 (part): successful", "rolled out"]

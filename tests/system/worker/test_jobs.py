"""A controller's job on its command: who launches it is the worker, and its claim is the fence."""

import subprocess
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from app.commands.view import view
from tests.support.calls import accept, subject
from tests.support.offers import call, offer, put
from tests.support.stack import wait_for
from tests.system.eda.controller import TOKEN, Controller, Template
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

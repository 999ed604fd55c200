"""What EDA leaves when it is killed, and who removes it."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from devstack.eda import EmbeddedEda
from devstack.process import kill_each
from tests.support.rulebooks import PLAYBOOKS, rulebook_with
from tests.support.stack import wait_for
from tests.system.eda.conftest import Publish, make_topic
from tests.system.eda.results_api import TOKEN, ResultsApi

pytestmark = [pytest.mark.eda, pytest.mark.timeout(240)]


@pytest.mark.guarantee("eda:nothing-left")
async def test_the_arguments_that_a_killed_process_left_go_when_the_next_one_runs(
    kafka_bootstrap: str, api: ResultsApi, publish: Publish, tmp_path: Path
) -> None:
    topic = await make_topic(kafka_bootstrap)
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def eda() -> EmbeddedEda:
        return EmbeddedEda(
            home=tmp_path,
            kafka=kafka_bootstrap,
            broker_url=api.url,
            token=TOKEN,
            workspace=tmp_path,
            group=f"killed-{uuid4()}",
            topic=topic,
            variables={"control_topic": f"{topic}-control", "leftovers_s": 0.5},
            rulebook=rulebook_with({"slow": PLAYBOOKS / "slow.yml"}, tmp_path / "book.yml"),
            env={"TMPDIR": str(temporary)},
        )

    async def claimed(command: dict[str, object]) -> None:
        async def done() -> bool:
            return "claim" in api.words(command)

        await wait_for(done, 60)

    def folders() -> set[str]:
        return {path.name for path in temporary.glob("eda????????")}

    first = eda()
    first.start()
    try:
        command = api.command("slow", "x", {"secret": "hunter2"})
        await publish(topic, command)
        await claimed(command)
    finally:
        first.kill()
        # A playbook that outlives EDA rightly keeps its folder: here the machine's end is meant.
        kill_each(of_environment(temporary))
    [left] = folders()
    assert "hunter2" in (temporary / left / "env" / "extravars").read_text()
    api.said.clear()
    second = eda()
    second.start()
    try:
        # The group is new, so the same event comes again, and its playbook runs.
        await claimed(command)

        async def working() -> list[Path]:
            return list(tmp_path.glob("slow.*/pids"))

        async def swept() -> bool:
            return left not in folders() and len(folders()) == 1

        await wait_for(swept, 60)
        [pids] = await wait_for(working, 40)
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    finally:
        second.stop()


def of_environment(folder: Path) -> list[int]:
    """The processes that were told to keep temporary files there."""
    found: list[int] = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if f"TMPDIR={folder}".encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
    return found

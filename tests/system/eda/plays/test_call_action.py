"""The action that runs a kind of adapter, one play each: what it says, and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.command.programs import script
from tests.support.stack import alive, wait_for
from tests.system.eda.conftest import ROOT, play, start_play
from tests.system.eda.controller import TOKEN as CONTROLLER_TOKEN
from tests.system.eda.controller import Controller, Template
from tests.system.eda.results_api import ResultsApi

EVERY_KIND = ROOT / "playbooks" / "mcp_adapter.yml"
WAITS = """
import os, pathlib, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""

pytestmark = [pytest.mark.eda, pytest.mark.timeout(120)]


def offered(api: ResultsApi, *, idempotent: bool = True, **mapping: Any) -> dict[str, Any]:
    """A command whose claim names a kind and its target."""
    command = api.command("any", "tool", {"text": "not to be seen"})
    target = {"name": "python", "kind": "command", "address": sys.executable}
    api.claims[command["correlation_id"]] = {
        "correlation_id": command["correlation_id"],
        "user_id": "ada",
        "traceparent": None,
        "idempotent": idempotent,
        "left_s": 60.0,
        "adapter": {"kind": "command", "target": "python", "runs_on": "eda"} | mapping,
        "target": target,
    }
    return command


async def test_what_was_done_is_reported_and_a_refused_claim_does_nothing(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    touch = script("import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); print(5)")
    done, refused = [
        offered(api, args=[*touch["args"], str(tmp_path / name)]) for name in ("done", "refused")
    ]
    output = play(EVERY_KIND, done, api=api, workspace=workspace)
    assert api.words(done) == ["claim", "result"]
    assert api.of(done)[-1].body == {"status": "ok", "result": 5, "attempt": 1}
    assert "not to be seen" not in output
    api.refused[refused["correlation_id"]] = "ended_succeeded"
    play(EVERY_KIND, refused, api=api, workspace=workspace)
    assert api.words(refused) == ["claim"]
    assert (tmp_path / "done").exists()
    assert not (tmp_path / "refused").exists()


async def test_the_last_word_of_progress_is_said_before_the_outcome(
    api: ResultsApi, workspace: Path
) -> None:
    words = script("""import os; os.write(3, b'{"message": "nearly"}\\n'); print(5)""")
    command = offered(api, **words)
    play(EVERY_KIND, command, api=api, workspace=workspace)
    assert api.words(command)[-2:] == ["progress", "result"]
    assert api.of(command)[-2].body["message"] == "nearly"


@pytest.mark.guarantee("eda:kinds")
async def test_a_template_is_launched_and_its_job_is_told_of_under_the_claims_name(
    api: ResultsApi, workspace: Path
) -> None:
    def run(_template: str, _variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(["true"], text=True)

    with Controller(run) as controller:
        controller.templates["deploy"] = Template("deploy", number=12)
        command = offered(api, kind="aap", template=12)
        credential = {"type": "bearer", "token": "env:AAP_TOKEN"}
        target = {"name": "aap", "kind": "aap", "address": controller.url, "credential": credential}
        api.claims[command["correlation_id"]] = {
            **api.claims[command["correlation_id"]],
            "target": target,
        }
        play(EVERY_KIND, command, api=api, workspace=workspace, AAP_TOKEN=CONTROLLER_TOKEN)
        link = f"{controller.url}/#/jobs/playbook/1"
    claim, *_, result = api.of(command)
    assert result.body["result"]["job"] == {"id": 1, "status": "successful", "link": link}
    last = api.runs(command)[-1]
    assert (last["run"], last["status"], last["link"]) == ("job:1", "successful", link)
    assert last["parts"] == [claim.body["adapter"]]


@pytest.mark.guarantee("eda:kinds")
@pytest.mark.parametrize("idempotent", [True, False])
async def test_a_play_that_is_told_to_end_gives_its_call_back_where_that_does_no_harm(
    api: ResultsApi, workspace: Path, tmp_path: Path, *, idempotent: bool
) -> None:
    mark = tmp_path / "pid"
    waits = script(WAITS, str(mark), stdin="none")
    command = offered(api, idempotent=idempotent, **waits)
    process = start_play(EVERY_KIND, command, api=api, workspace=workspace)

    async def at_work() -> int:
        return int(mark.read_text() or 0) if mark.exists() else 0

    pid = await wait_for(at_work, 40)
    process.send_signal(signal.SIGTERM)

    async def said() -> bool:
        return "error" in api.words(command)

    await wait_for(said, 20)
    error = api.of(command)[-1].body["error"]
    assert error["code"] == "drained"
    assert error["retryable"] is idempotent
    assert error.get("outcome_unknown", False) is not idempotent
    assert not alive(pid)
    process.communicate(timeout=20)


async def test_an_ansible_without_the_library_gives_the_call_back_and_says_why(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    other = tmp_path / "elsewhere" / "adapters"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('of another kind')")
    command = offered(api)
    paths = os.pathsep.join([str(other.parent), os.environ.get("PYTHONPATH", "")])
    process = start_play(EVERY_KIND, command, api=api, workspace=workspace, PYTHONPATH=paths)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "has not the broker's package" in output
    error = api.of(command)[-1].body["error"]
    assert error["code"] == "misconfigured"
    assert error.get("retryable", True), "nothing was done"


async def test_a_call_that_failed_is_a_failed_job_on_a_controller_without_the_callers_words(
    api: ResultsApi, workspace: Path
) -> None:
    says = script("import sys; sys.exit('not to be seen')", stdin="none")
    command = offered(api, **says)
    variables = {"mcp_command": command, "awx_job_id": 7}
    process = start_play(EVERY_KIND, command, api=api, workspace=workspace, variables=variables)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the call ended with target_failed" in output
    assert "not to be seen" not in output
    [claim, error] = api.of(command)
    assert claim.body["adapter"].startswith("job:7:")
    assert "not to be seen" in str(error.body["error"])

"""The action that speaks to the broker: how it reaches it, and what its tasks show."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.system.eda.conftest import ROOT, play, start_play
from tests.system.eda.results_api import ResultsApi

CLONE = ROOT / "playbooks" / "mcp_git_clone_adapter.yml"
ECHO = ROOT / "playbooks" / "mcp_echo_adapter.yml"

pytestmark = [pytest.mark.eda, pytest.mark.timeout(120)]


async def test_an_adapter_presents_its_certificate_where_the_broker_wants_one(
    mutual: tuple[ResultsApi, dict[str, str]], workspace: Path
) -> None:
    api, files = mutual
    command = api.command("probe", "echo", {"text": "certified"})
    play(ECHO, command, api=api, workspace=workspace, variables=None, **files)
    assert api.words(command) == ["claim", "result"]


async def test_why_a_claim_failed_is_said_though_its_task_shows_nothing(
    api: ResultsApi, workspace: Path
) -> None:
    command = api.command("probe", "echo", {"text": "not to be seen"})
    process = start_play(ECHO, command, api=api, workspace=workspace, MCP_BROKER_TOKEN="")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "set MCP_BROKER_TOKEN_FILE or MCP_BROKER_TOKEN" in output
    assert "not to be seen" not in output


@pytest.mark.parametrize(("job", "code"), [({}, 0), ({"awx_job_id": 7}, 2)])
async def test_a_failed_commands_job_is_failed_on_a_controller(
    job: dict[str, Any], code: int, api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    command = api.command("git", "clone", {"repo": str(tmp_path / "none"), "dest": "x"})
    variables = {"mcp_command": command, **job}
    process = start_play(CLONE, command, api=api, workspace=workspace, variables=variables)
    output, _ = process.communicate(timeout=60)
    assert api.words(command)[-1] == "error"
    assert process.returncode == code, output


async def test_a_claim_that_is_refused_is_no_failed_job(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    command = api.command("git", "clone", {"repo": str(tmp_path / "none"), "dest": "x"})
    api.refused[command["correlation_id"]] = "ended_cancelled"
    variables = {"mcp_command": command, "awx_job_id": 7}
    play(CLONE, command, api=api, workspace=workspace, variables=variables)
    assert api.words(command) == ["claim"]


async def test_the_brokers_address_and_token_may_be_options_of_a_task(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    api.token = "Bearer an option's"
    play_of_options = tmp_path / "options.yml"
    play_of_options.write_text(f"""
- hosts: all
  gather_facts: false
  tasks:
    - mcpbroker.eda.broker: {{op: claim, broker_url: "{api.url}", token: "an option's"}}
      register: claimed
    - mcpbroker.eda.broker:
        op: result
        result: {{ok: "{{{{ claimed.proceed }}}}"}}
        broker_url: "{api.url}"
        token: "an option's"
""")
    command = api.command("probe", "echo", {})
    env = {"MCP_BROKER_URL": "http://127.0.0.1:9", "MCP_BROKER_TOKEN": "the environment's"}
    play(play_of_options, command, api=api, workspace=workspace, variables=None, **env)
    assert api.of(command)[-1].body["result"] == {"ok": True}


async def test_an_adapter_runs_on_the_control_node_whatever_hosts_there_are(
    api: ResultsApi, workspace: Path
) -> None:
    command = api.command("probe", "echo", {"text": "one"})
    hosts = ["-i", "web1,web2,web3,"]
    variables = {"mcp_command": command, "awx_job_id": 7}
    process = start_play(
        ECHO, command, api=api, workspace=workspace, variables=variables, hosts=hosts
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert api.words(command) == ["claim", "result"]


def entered(root: Path, **env: str) -> str:
    """What a tool's script says as it goes to its folder."""
    program = "import workspace; workspace.enter('_clones', 'demo')"
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=ROOT / "playbooks" / "files",
        env={"PATH": os.environ["PATH"], "MCP_WORKSPACE": str(root), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


def test_a_workspace_that_vanishes_with_its_job_is_refused(tmp_path: Path) -> None:
    assert entered(tmp_path) == "", "on a machine of its own"
    mount = next(one for one in tmp_path.parents if os.path.ismount(one))
    assert "would vanish with it" in entered(tmp_path, AWX_PRIVATE_DATA_DIR=str(mount))
    with TemporaryDirectory(dir="/dev/shm") as mounted:
        assert entered(Path(mounted), AWX_PRIVATE_DATA_DIR="/runner") == ""

"""The shipped adapters, the collection's actions and the seed's playbook, each as one play."""

import os
import signal
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from devstack.demo import head_of
from tests.support.stack import wait_for
from tests.system.eda.conftest import ROOT, play, start_play
from tests.system.eda.results_api import TOKEN, ResultsApi

CLONE = ROOT / "playbooks" / "mcp_git_clone_adapter.yml"
DELETE = ROOT / "playbooks" / "mcp_git_delete_adapter.yml"
ECHO = ROOT / "playbooks" / "mcp_echo_adapter.yml"
FIXTURES = Path(__file__).parents[1] / "fixtures"

pytestmark = [pytest.mark.eda, pytest.mark.timeout(120)]


class Silent:
    """A git server that takes a request and never answers; knows how many clients wait."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/repo.git"
        self.waiting = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._hold, args=[client], daemon=True).start()

    def _hold(self, client: socket.socket) -> None:
        self.waiting += 1
        with suppress(OSError):
            while client.recv(1000):
                pass
        self.waiting -= 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


@contextmanager
def cloning(
    api: ResultsApi, silent: Silent, workspace: Path, command: Mapping[str, Any]
) -> Generator[Any]:
    """A play that is in the middle of a clone; what is left of it is killed."""
    process = start_play(CLONE, command, api=api, workspace=workspace, MCP_GIT_PROTOCOLS="http")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_clone_that_is_run_again_finds_its_own_and_no_other_commands(
    api: ResultsApi, workspace: Path, repo: Path
) -> None:
    args = {"repo": f"file://{repo}", "dest": "one", "ref": "main", "depth": 1}
    command, other = api.command("git", "clone", args), api.command("git", "clone", args)
    again = command | {"attempt": 2}
    for each in (command, again, other):
        play(CLONE, each, api=api, workspace=workspace)
    first, second = [said.body for said in api.of(command) if said.word == "result"]
    assert first["result"] == second["result"]
    assert first["result"]["head"] == head_of(str(repo))
    assert [first["attempt"], second["attempt"]] == [1, 2]
    assert api.words(other)[-1] == "error"
    assert "another command's" in api.of(other)[-1].body["error"]["message"]


@pytest.mark.parametrize(
    ("args", "tenant"),
    [({"dest": "../up"}, "demo"), ({"dest": "a"}, "../up")],
)
async def test_a_clone_stays_in_its_tenants_folder(
    api: ResultsApi, workspace: Path, repo: Path, args: dict[str, Any], tenant: str
) -> None:
    command = api.command("git", "clone", {"repo": str(repo)} | args, tenant_id=tenant)
    play(CLONE, command, api=api, workspace=workspace)
    assert api.words(command) == ["claim", "progress", "progress", "error"]
    assert "must be a plain name" in api.of(command)[-1].body["error"]["message"]
    assert not workspace.exists()
    assert not (workspace.parent / "up").exists()


async def test_only_the_protocols_that_are_allowed_are_spoken(
    api: ResultsApi, workspace: Path, repo: Path
) -> None:
    command = api.command("git", "clone", {"repo": str(repo), "dest": "local"})
    play(CLONE, command, api=api, workspace=workspace, MCP_GIT_PROTOCOLS="")
    assert api.words(command)[-1] == "error"
    assert "not allowed" in api.of(command)[-1].body["error"]["message"]


@pytest.mark.guarantee("cancel:ends-the-run")
async def test_a_cancel_ends_a_running_program_and_its_files_go(
    api: ResultsApi, silent: Silent, workspace: Path
) -> None:
    api.lease_s = 1.5
    secret = silent.url.replace("//", "//user:hunter2@")
    command = api.command("git", "clone", {"repo": secret, "dest": "slow"})
    with cloning(api, silent, workspace, command):

        async def kept_alive() -> bool:
            # One before the clone, then one a third of a lease while git waits.
            return api.words(command).count("progress") >= 3

        await wait_for(kept_alive, 30)
        assert silent.waiting == 1
        assert "hunter2" not in command_lines(), "where whoever lists processes would read it"
        api.cancelled.add(command["correlation_id"])

        async def told() -> bool:
            return "error" in api.words(command)

        await wait_for(told)
        await wait_for(partial(nobody_waits, silent))
    assert "cancelled" in api.of(command)[-1].body["error"]["message"]
    assert not list((workspace / "_clones" / "demo" / ".incoming").iterdir())
    assert not (workspace / "_clones" / "demo" / "slow").exists()
    assert "hunter2" not in str(api.said)


async def test_a_killed_play_leaves_no_program_and_no_half_clone(
    api: ResultsApi, silent: Silent, workspace: Path, repo: Path
) -> None:
    command = api.command("git", "clone", {"repo": silent.url, "dest": "killed"})
    with cloning(api, silent, workspace, command) as process:

        async def waiting() -> bool:
            return silent.waiting == 1

        await wait_for(waiting, 30)
        os.kill(process.pid, signal.SIGKILL)
        await wait_for(partial(nobody_waits, silent))
    assert not (workspace / "_clones" / "demo" / "killed").exists()
    api.args[command["correlation_id"]]["repo"] = str(repo)
    play(CLONE, command | {"attempt": 2}, api=api, workspace=workspace)
    assert api.words(command)[-1] == "result"


def command_lines() -> str:
    """Those of all processes."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            found.append(path.read_text(errors="replace"))
    assert "git-remote-http" in "".join(found)
    return "".join(found)


async def nobody_waits(silent: Silent) -> bool:
    return silent.waiting == 0


async def test_words_are_said_again_while_the_broker_is_away(
    api: ResultsApi, workspace: Path
) -> None:
    command = api.command("probe", "echo", {"text": "patience"})
    api.failing = 3
    play(ECHO, command, api=api, workspace=workspace)
    assert api.words(command) == ["claim", "result"]


async def test_a_token_file_that_is_renewed_meanwhile_is_read_again(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("expired")
    api.token = f"Bearer {TOKEN}"
    command = api.command("probe", "echo", {"text": "renewed"})
    process = start_play(
        ECHO, command, api=api, workspace=workspace, MCP_BROKER_TOKEN_FILE=str(token)
    )

    async def refused() -> bool:
        return api.unauthorized > 0

    await wait_for(refused, 30)
    token.write_text(f"{TOKEN}\n")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert api.words(command) == ["claim", "result"]


@pytest.mark.guarantee("adapter:claim-only")
@pytest.mark.parametrize("said", [{"tenant_id": "other"}, {"method": "clone"}, {"tool": "probe"}])
async def test_an_event_that_says_another_tenant_or_tool_has_no_effect(
    api: ResultsApi, workspace: Path, said: dict[str, str], repo: Path
) -> None:
    made = api.command("git", "clone", {"repo": str(repo), "dest": "kept"})
    play(CLONE, made, api=api, workspace=workspace)
    command = api.command("git", "delete", {"dest": "kept"})
    play(DELETE, command | said, api=api, workspace=workspace)
    assert api.words(command) == ["claim"]
    assert (workspace / "_clones" / "demo" / "kept").exists()


@pytest.mark.guarantee("adapter:claim-only")
async def test_all_that_an_adapter_acts_on_is_the_claims_answer(
    api: ResultsApi, workspace: Path, repo: Path
) -> None:
    command = api.command("git", "clone", {"repo": str(repo), "dest": "one"})
    forged = {"args": {"repo": "/etc", "dest": "two"}, "ordering_key": "x", "user_id": "y"}
    play(CLONE, command | forged, api=api, workspace=workspace)
    assert api.words(command)[-1] == "result"
    assert api.of(command)[0].body.keys() == {"attempt", "adapter", "tenant_id", "tool", "method"}
    assert (workspace / "_clones" / "demo" / "one").exists()
    rejected = api.command("nobody", "home", {}, attempt=3)
    play(ROOT / "playbooks" / "mcp_deadletter_adapter.yml", rejected, api=api, workspace=workspace)
    assert api.of(rejected)[0].body["attempt"] == 3


@pytest.mark.guarantee("adapter:result-not-kept")
@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("{{ 'x' * 5000000 }}", "has 5000002 bytes"),
        ("{{ ['.inf' | from_yaml] }}", "no JSON"),
        ("kept nowhere", "answered 422: no such text"),
    ],
)
async def test_a_result_that_cannot_be_kept_ends_the_command_at_once_and_says_why(
    api: ResultsApi, workspace: Path, tmp_path: Path, result: str, why: str
) -> None:
    playbook = tmp_path / "result.yml"
    playbook.write_text(ONE_WORD % f"{{op: result, result: {result!r}}}")
    if "422" in why:
        api.unkept["result"] = "no such text"
    command = api.command("probe", "echo", {})
    play(playbook, command, api=api, workspace=workspace)
    assert api.words(command)[-1] == "error", "which is no second piece of work for anybody"
    error = api.of(command)[-1].body["error"]
    assert (error["code"], error["retryable"]) == ("result_not_kept", False)
    assert why in error["message"]


@pytest.mark.guarantee("adapter:any-words")
async def test_what_a_program_writes_never_ends_its_run(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    api.lease_s = 1.5
    api.unkept["progress"] = "not these words"
    playbook = tmp_path / "nul.yml"
    playbook.write_text(NUL)
    command = api.command("probe", "echo", {})
    play(playbook, command, api=api, workspace=workspace)
    assert set(api.words(command)[1:-1]) == {"progress"}
    assert api.words(command)[-1] == "error"
    texts = [str(said.body) for said in api.of(command)]
    assert not any("\\x00" in text for text in texts), "the broker keeps no NUL"
    assert "a\ufffdb" in api.of(command)[-1].body["error"]["message"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [("'false'", False), ("'no'", False), ("{{ 1 == 2 }}", False), ("'yes'", True), ("1", True)],
)
async def test_a_boolean_is_read_as_ansible_reads_one(
    api: ResultsApi, workspace: Path, tmp_path: Path, said: str, meant: bool
) -> None:
    playbook = tmp_path / "error.yml"
    playbook.write_text(ONE_WORD % f"{{op: error, message: x, retryable: {yaml_text(said)}}}")
    command = api.command("probe", "echo", {})
    play(playbook, command, api=api, workspace=workspace)
    assert api.of(command)[-1].body["error"].get("retryable", True) is meant


def yaml_text(text: str) -> str:
    return f'"{text}"' if text.startswith("{{") else text


async def test_what_is_no_boolean_is_refused(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    playbook = tmp_path / "error.yml"
    playbook.write_text(ONE_WORD % "{op: error, message: x, retryable: never}")
    command = api.command("probe", "echo", {})
    process = start_play(playbook, command, api=api, workspace=workspace)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "retryable is true or false, not 'never'" in output
    assert api.words(command) == ["claim"]


async def test_progress_that_nobody_hears_does_not_stop_the_work(
    api: ResultsApi, workspace: Path, tmp_path: Path
) -> None:
    playbook = tmp_path / "deaf.yml"
    playbook.write_text(DEAF)
    api.deaf = True
    command = api.command("probe", "echo", {"text": "x"})
    play(playbook, command, api=api, workspace=workspace)
    assert api.words(command)[-1] == "result"
    assert api.of(command)[-1].body["result"] == "done"


ONE_WORD = """
- hosts: all
  gather_facts: false
  tasks:
    - mcpbroker.eda.broker: {op: claim}
    - mcpbroker.eda.broker: %s
"""
NUL = """
- hosts: all
  gather_facts: false
  tasks:
    - mcpbroker.eda.broker: {op: claim}
      register: claimed
    - block:
        - mcpbroker.eda.run:
            stage: working
            lease_s: "{{ claimed.lease_s }}"
            argv: [sh, -c, 'printf "a\\000b\\377" >&2; sleep 1.8; exit 1']
      rescue:
        - mcpbroker.eda.broker: {op: error, message: "{{ ansible_failed_result.msg }}"}
"""
DEAF = """
- hosts: all
  gather_facts: false
  tasks:
    - mcpbroker.eda.broker: {op: claim}
    - mcpbroker.eda.broker: {op: progress, stage: working}
    - mcpbroker.eda.broker: {op: result, result: done}
"""


@pytest.mark.parametrize("traceparent", [None, "00-0af7651916cd43dd8448eb211c80319c-b7ad-01"])
async def test_the_work_of_a_traced_call_has_its_traceparent(
    api: ResultsApi, workspace: Path, traceparent: str | None
) -> None:
    command = api.command("probe", "echo", {})
    api.claims[command["correlation_id"]] = {"traceparent": traceparent}
    play(FIXTURES / "traced.yml", command, api=api, workspace=workspace)
    assert api.of(command)[-1].body["result"] == [traceparent or ""] * 2

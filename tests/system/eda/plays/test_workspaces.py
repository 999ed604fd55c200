"""No tool runs what a caller cloned, or follows a path through it: the attacks that once worked."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import make_repo
from tests.system.eda.conftest import ROOT, play
from tests.system.eda.results_api import ResultsApi

PLAYBOOKS = {
    ("git", "clone"): "mcp_git_clone_adapter.yml",
    ("git", "delete"): "mcp_git_delete_adapter.yml",
    **{("service", method): "mcp_service_adapter.yml" for method in ("provision", "configure")},
}

pytestmark = [pytest.mark.eda, pytest.mark.timeout(120)]


class Tenant:
    """Calls tools as one tenant."""

    def __init__(self, api: ResultsApi, workspace: Path, tenant: str = "demo") -> None:
        self.api = api
        self.workspace = workspace
        self.tenant = tenant

    def call(self, tool: str, method: str, **args: Any) -> Any:
        """The result of a call, or its error."""
        command = self.api.command(tool, method, args, tenant_id=self.tenant)
        playbook = ROOT / "playbooks" / PLAYBOOKS[tool, method]
        play(playbook, command, api=self.api, workspace=self.workspace)
        last = self.api.of(command)[-1].body
        return last["result"] if last["status"] == "ok" else last["error"]

    def provision(self, name: str) -> Path:
        made = self.call("service", "provision", name=name, owner="saga-1")
        self.call("service", "configure", name=name, owner="saga-1", settings={"of": self.tenant})
        return Path(made["path"])


@pytest.fixture
def demo(api: ResultsApi, tmp_path: Path) -> Tenant:
    return Tenant(api, tmp_path / "workspace")


@pytest.fixture
def other(api: ResultsApi, tmp_path: Path) -> Tenant:
    return Tenant(api, tmp_path / "workspace", "other")


def commit_all(repo: Path) -> None:
    git = ["git", "-C", repo, "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "more"], check=True)


def with_a_repository_inside(repo: Path, program: Path) -> Path:
    """A repository that tracks another one's files, whose config names a program to run."""
    inside = make_repo(repo) / "web"
    shutil.copytree(make_repo(repo.with_name("inner")) / ".git", inside)
    for folder in inside.rglob("*/"):
        (folder / ".kept").touch()  # git keeps no empty folder
    settings = f"repositoryformatversion = 0\n\tworktree = ..\n\tfsmonitor = {program}\n"
    (inside / "config").write_text(f"[core]\n\t{settings}")
    commit_all(repo)
    return repo


@pytest.mark.guarantee("adapter:apart")
def test_a_program_named_in_what_was_cloned_is_never_run(demo: Tenant, tmp_path: Path) -> None:
    mark, program = tmp_path / "was-run", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    repo = with_a_repository_inside(tmp_path / "source", program)
    assert "path" in demo.call("git", "clone", repo=str(repo), dest="services")
    demo.call("service", "configure", name="web", owner="saga-2", settings={})
    assert not mark.exists()


@pytest.mark.guarantee("adapter:apart")
def test_a_link_that_was_cloned_leads_nowhere(demo: Tenant, other: Tenant, tmp_path: Path) -> None:
    theirs = other.provision("web") / "config.json"
    before = theirs.read_text()
    repo = make_repo(tmp_path / "source")
    for n in range(1, 4):
        (repo / f"web{n}").symlink_to(f"{'../' * n}other/services/web")
    (repo / "whole").symlink_to(theirs.parent)
    commit_all(repo)
    assert "path" in demo.call("git", "clone", repo=str(repo), dest="services")
    for name in ("web1", "web2", "web3", "whole"):
        refused = demo.call("service", "configure", name=name, owner="saga-2", settings={"x": 1})
        assert "there is no service" in refused["message"]
    assert theirs.read_text() == before


@pytest.mark.guarantee("adapter:apart")
def test_a_delete_takes_clones_and_nothing_else(demo: Tenant) -> None:
    service = demo.provision("web")
    for dest in ("services", "enabled", "web"):
        assert demo.call("git", "delete", dest=dest)["deleted"] is False
    assert json.loads((service / "config.json").read_text()) == {"of": "demo"}
    assert [path.name for path in service.parent.iterdir()] == ["web"]


@pytest.mark.guarantee("adapter:apart")
def test_credentials_of_a_url_are_for_its_host_alone_and_are_not_kept(
    demo: Tenant, tmp_path: Path
) -> None:
    mark = tmp_path / "was-run"
    for repo in (
        f"https://u:p@x.helper=!touch {mark};",
        "https://u:p@host\nother/r.git",
        "https://u%0ahost=x:p@127.0.0.1/r.git",
        "https://u:p@[::1/r.git",
        "-u./evil",
    ):
        assert "message" in demo.call("git", "clone", repo=repo, dest="x")
    assert not mark.exists()


def test_data_of_any_size_reaches_a_program(demo: Tenant) -> None:
    settings = {"text": "x" * 240_000, "_ansible_x": "🎉"}
    place = demo.provision("web")
    demo.call("service", "configure", name="web", owner="saga-2", settings=settings)
    assert json.loads((place / "config.json").read_text()) == settings

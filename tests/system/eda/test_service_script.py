"""What the service adapter does to files and git: each operation repeated, and each undo alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from app import assets

SCRIPT = assets.root() / "playbooks" / "files" / "service.py"
STEPS = ("provision", "configure", "enable")
UNDOS = ("disable", "restore", "deprovision")


class Service:
    """A service `web` under a folder, as one saga sees it."""

    def __init__(self, root: Path, owner: str) -> None:
        self.root = root
        self.owner = owner
        self.place = root / "_services" / "demo" / "services" / "web"
        self.enabled = root / "_services" / "demo" / "enabled" / "web"

    def run(self, operation: str, **args: Any) -> subprocess.CompletedProcess[str]:
        said = {"name": "web", "owner": self.owner, "settings": {"for": self.owner}} | args
        return subprocess.run(
            [sys.executable, SCRIPT, "--tenant", "demo", operation],
            input=json.dumps(said),
            env=os.environ | {"MCP_WORKSPACE": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )

    def do(self, operation: str) -> Any:
        """Twice, as a lost answer makes it: the second time changes nothing more."""
        first, second = self.run(operation), self.run(operation)
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        return json.loads(first.stdout)

    def log(self) -> list[str]:
        argv = ["git", "-C", self.place, "log", "--format=%s"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_the_steps_make_is_there_once_and_its_undo_leaves_nothing(tmp_path: Path) -> None:
    mine = Service(tmp_path, "one")
    for step in STEPS:
        mine.do(step)
    assert mine.log() == ["Configure web", "Provision web"]
    assert json.loads((mine.place / "config.json").read_text()) == {"for": "one"}
    assert mine.enabled.read_text() == "one"
    for undo in UNDOS:
        mine.do(undo)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_an_undo_of_what_was_never_done_succeeds_and_does_nothing(tmp_path: Path) -> None:
    for undo in UNDOS:
        Service(tmp_path, "one").do(undo)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_a_step_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    mine = Service(tmp_path, "one")
    for step in STEPS:
        before = sorted(path for path in tmp_path.rglob("*") if ".git" not in path.parts)
        failed = mine.run(step, fail_at=step)
        assert failed.returncode == 1
        assert f"{step} fails" in failed.stderr
        assert sorted(path for path in tmp_path.rglob("*") if ".git" not in path.parts) == before
        mine.do(step)


def test_what_is_anothers_is_neither_taken_nor_undone(tmp_path: Path) -> None:
    mine, other = Service(tmp_path, "one"), Service(tmp_path, "two")
    for step in STEPS:
        mine.do(step)
    for step, word in (("provision", "is another's"), ("enable", "enabled by another")):
        refused = other.run(step)
        assert refused.returncode == 1
        assert word in refused.stderr
    for undo in UNDOS:
        other.do(undo)
    assert mine.log() == ["Configure web", "Provision web"]
    assert mine.enabled.exists()
    other.do("configure")
    refused = mine.run("restore")
    assert refused.returncode == 1
    assert "restore it by hand" in refused.stderr
    other.do("restore")
    assert json.loads((mine.place / "config.json").read_text()) == {"for": "one"}


def test_a_name_cannot_leave_the_tenants_folder(tmp_path: Path) -> None:
    mine = Service(tmp_path / "tenant", "one")
    for name in ("../x", "/x", "..", "a/b", "", "a\n"):
        refused = mine.run("provision", name=name)
        assert refused.returncode == 1
        assert "plain name" in refused.stderr
    assert list(tmp_path.rglob("*")) == []

"""The repository as a controller's project: what its sync does, and whether plays find the rest."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.eda.conftest import ROOT

PLAYBOOKS = sorted((ROOT / "playbooks").glob("mcp_*.yml"))


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkout, and the collections that AWX's project_update.yml installs of it."""
    folder = tmp_path_factory.mktemp("project")
    project, collections = folder / "checkout", folder / "collections"
    for name in ("collections", "playbooks", "rulebooks"):
        shutil.copytree(ROOT / name, project / name)
    argv = ["ansible-galaxy", "collection", "install", "-r", "collections/requirements.yml"]
    run([*argv, "--collections-path", str(collections)], project, folder)
    return project, collections


def run(argv: list[str], cwd: Path, home: Path, **env: str) -> None:
    program = str(Path(sys.executable).parent / argv[0])
    environ = {"PATH": os.environ["PATH"], "ANSIBLE_HOME": str(home / "ansible")} | env
    done = subprocess.run(
        [program, *argv[1:]], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)
def test_each_playbook_finds_its_actions_once_the_project_is_synced(
    playbook: Path, synced: tuple[Path, Path]
) -> None:
    project, collections = synced
    path = str(project / "playbooks" / playbook.name)
    argv = ["ansible-playbook", "--syntax-check", "-i", "localhost,", path]
    run(argv, project, collections.parent, ANSIBLE_COLLECTIONS_PATH=str(collections))

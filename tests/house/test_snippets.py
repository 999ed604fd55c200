"""The snippets of the papers are whole, and those that need no running stack are run.

The others are run elsewhere: the auditors' SQL in tests/audit/test_auditors.py, commands and calls
in tests/cli, the tasks of adapters in tests/system/eda/plays/test_adapters_page.py.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter
from typer.testing import CliRunner

from app import cli
from app.config import PREFIX, Settings
from app.edges.parts import Parts
from tests.support.papers import ROOT, Piece, blocks, commands, deployed, found, scripts, words

FENCES = {"console", "mermaid", "nginx", "json", "toml", "python", "sql", "yaml", "indented", ""}


def in_language(language: str) -> list[Piece]:
    return [block for block in blocks() if block.language == language]


def test_each_language_of_a_block_is_one_that_is_looked_at() -> None:
    strange = [f"{one.page}:{one.line}" for one in blocks() if one.language not in FENCES]
    assert not strange, f"have a test here read this language: {strange}"


def test_each_script_is_the_shells() -> None:
    told = [one for one in scripts() if one.text.strip()]
    assert len(told) > 5
    for one in told:
        done = subprocess.run(
            ["bash", "-n"], input=one.text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{one.page}:{one.line}: {done.stderr}"


def test_each_target_of_make_can_be_made() -> None:
    """By make itself, which says what it would do."""
    for one in commands():
        if one.text.startswith("make "):
            argv = ["make", "-n", *words(one.text)[1:]]
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{one}: {done.stderr}"


def test_each_block_of_yaml_and_json_is_read() -> None:
    for one in in_language("yaml"):
        assert yaml.safe_load(one.text), f"{one.page}:{one.line}"
    for one in in_language("json"):
        assert json.loads(one.text), f"{one.page}:{one.line}"
    for path in deployed():
        if path.suffix == ".yml":
            assert yaml.compose(path.read_text()), path  # tags of other programs too
    done = subprocess.run(["sh", "-n", ROOT / "deploy" / "entrypoint.sh"], check=False)
    assert done.returncode == 0


def test_the_first_step_of_the_example_saga_is_as_it_is_told() -> None:
    [told] = [one for one in in_language("yaml") if one.page == "docs/SAGAS.md"]
    example = yaml.safe_load((ROOT / "examples" / "service_saga.yml").read_text())
    assert yaml.safe_load(told.text)["steps"] == example["steps"][:1], f"{told.page}:{told.line}"


def test_each_value_of_a_setting_is_one_that_it_takes() -> None:
    values = [
        (where, match[1].lower(), match[2])
        for where, match in found(rf"\b{PREFIX}([A-Z_]+)='([^']+)'")
    ]
    # docs/CLIENTS.md has settings of clients; tests/house/test_registry.py reads them.
    pages = [one for one in in_language("json") if one.page != "docs/CLIENTS.md"]
    issuers = [(one, "issuers", one.text) for one in pages]
    assert len(values) > 3
    assert len(issuers) == 1
    for where, name, value in [*values, *issuers]:
        kind: Any = Settings.model_fields[name].annotation
        taken = TypeAdapter(kind).validate_json(value)
        assert taken, f"{where.page}:{where.line}"


RUN = ("broker catalog check", "broker config", "broker audit keygen")
"""What needs no server."""


def test_each_command_that_needs_no_server_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "app" / "catalog", tmp_path / "app" / "catalog")
    unset = {name: None for name in os.environ if name.startswith(PREFIX)}
    ran: set[str] = set()
    for one in commands():
        line = one.text.removeprefix(".venv/bin/")
        argv = words(line)[1:]
        begun = next((known for known in RUN if line.startswith(known)), None)
        if begun is None or (begun.endswith("keygen") and len(argv) < 3):
            continue
        done = CliRunner().invoke(cli.app, argv, env=unset)
        assert done.exit_code == 0, f"{one}: {done.output}"
        ran.add(begun)
    assert ran == set(RUN)


async def test_the_test_that_contributors_are_shown_passes(broker: Parts) -> None:
    [told] = in_language("python")
    made: dict[str, Any] = {}
    exec(compile(told.text, told.page, "exec"), made)
    [(_, shown)] = [(name, one) for name, one in made.items() if name.startswith("test_")]
    await shown(broker)
    assert re.search(r"^async def test_", told.text, re.MULTILINE)

"""The collection as it is published: judged as an automation hub does, and documented whole."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.eda.conftest import COLLECTIONS, ROOT, judged, run

COLLECTION = COLLECTIONS / "ansible_collections" / "mcpbroker" / "eda"
PLUGINS = COLLECTION / "extensions" / "eda" / "plugins"
BIN = Path(sys.executable).parent
SOURCES = ("control", "kafka", "watchdog")
ACTIONS = ("broker", "call", "run")
GIVEN = re.compile(r'args(?:\.get\(|\[)"([a-z_]+)"')
PASSED_ON = {"eda_feedback_queue"}
"""What ansible-rulebook puts among a source's options."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The collection as a copy, where collections are looked for."""
    copy = tmp_path / "ansible_collections" / "mcpbroker" / "eda"
    shutil.copytree(COLLECTION, copy, ignore=shutil.ignore_patterns("__pycache__", "*.tar.gz"))
    return copy


def test_an_automation_hub_takes_it_without_a_word(tools: Path, tmp_path: Path) -> None:
    run(BIN / "ansible-galaxy", "collection", "build", COLLECTION, "--output-path", tmp_path)
    [built] = tmp_path.glob("mcpbroker-eda-*.tar.gz")
    said = judged(tools, "python", "-m", "galaxy_importer.main", built.name, cwd=tmp_path)
    assert "completed successfully" in said
    assert not re.search("WARNING|ERROR", said), said
    result = json.loads((tmp_path / "importer_result.json").read_text())
    told = result["metadata"]
    for name in ("repository", "documentation", "issues", "description", "authors", "license"):
        assert told[name], name
    assert re.fullmatch(r">=\d+\.\d+\.\d+", result["requires_ansible"])
    documented = result["docs_blob"]["contents"]
    modules = {one["content_name"] for one in documented if one["content_type"] == "module"}
    assert modules == set(ACTIONS)
    sources = {f"extensions/eda/plugins/event_source/{name}.py" for name in SOURCES}
    listed = run("tar", "-tzf", built).splitlines()
    assert sources <= set(listed)


def test_it_keeps_the_production_rules(tools: Path, checkout: Path) -> None:
    judged(tools, "ansible-lint", "--profile", "production", "--offline", cwd=checkout)


def test_its_changelog_is_what_antsibull_makes_of_its_fragments(
    tools: Path, checkout: Path
) -> None:
    judged(tools, "antsibull-changelog", "lint", cwd=checkout)
    judged(tools, "antsibull-changelog", "generate", cwd=checkout)
    assert (checkout / "CHANGELOG.rst").read_text() == (COLLECTION / "CHANGELOG.rst").read_text()
    version = yaml.safe_load((COLLECTION / "galaxy.yml").read_text())["version"]
    assert f"v{version}\n" in (COLLECTION / "CHANGELOG.rst").read_text()


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """By each plugin's name, the options that ansible-doc shows."""
    actions = [f"mcpbroker.eda.{name}" for name in ACTIONS]
    found: dict[str, set[str]] = {}
    folders = ["-M", f"{PLUGINS}/event_source:{PLUGINS}/event_filter"]
    for argv in (actions, [*folders, *SOURCES, "inert"]):
        told: dict[str, Any] = json.loads(run(BIN / "ansible-doc", "--json", *argv))
        for name, one in told.items():
            described: dict[str, Any] = one["doc"]["options"]
            assert all(option["description"] for option in described.values()), name
            found[name.rpartition(".")[2]] = set(described)
    return found


@pytest.mark.parametrize("action", ACTIONS)
def test_ansible_doc_shows_every_option_of_an_action(
    action: str, options: dict[str, set[str]]
) -> None:
    code = (COLLECTION / "plugins" / "action" / f"{action}.py").read_text()
    shared = COLLECTION / "plugins" / "module_utils"
    # Which command it is, and how the broker is reached.
    code += (shared / "results.py").read_text() + (shared / "connection.py").read_text()
    read = set(GIVEN.findall(code)) | set(re.findall(r'"([a-z_]+)": "MCP_BROKER', code))
    assert {"command", "token_file", "client_cert"} <= read
    assert options[action] == read, "an option that nobody tells of, or that nobody reads"


@pytest.mark.parametrize("source", SOURCES)
def test_ansible_doc_shows_every_option_of_a_source(
    source: str, options: dict[str, set[str]]
) -> None:
    code = (PLUGINS / "event_source" / f"{source}.py").read_text()
    read = set(GIVEN.findall(code)) - PASSED_ON
    assert read
    assert read <= options[source], "an option that nobody tells of"


def test_ansible_doc_shows_the_filters_option(options: dict[str, set[str]]) -> None:
    assert options["inert"] == {"arguments"}


def test_ansible_doc_tells_what_the_callback_needs() -> None:
    told = json.loads(run(BIN / "ansible-doc", "-t", "callback", "--json", "mcpbroker.eda.traces"))
    assert "extra otel" in " ".join(told["mcpbroker.eda.traces"]["doc"]["requirements"])


@pytest.mark.parametrize("kind", ["decision", "execution"])
def test_an_environments_definition_is_whole(kind: str, tools: Path, tmp_path: Path) -> None:
    run("make", "collection", cwd=ROOT)
    built = (f"{kind}-environment.yml", "-c", str(tmp_path / "context"))
    run(tools / "ansible-builder", "create", "-f", *built, cwd=ROOT / "deploy")
    assert "mcpbroker.eda" in (tmp_path / "context" / "_build" / "requirements.yml").read_text()

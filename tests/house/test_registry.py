"""`server.json`, the entry of the MCP registry, and the clients' settings in docs/CLIENTS.md."""

import json
import re
import tomllib
from typing import Any

import yaml

from app import assets
from app.config import Settings

ROOT = assets.root()
BLOCK = re.compile(r"^```(json|toml|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PARSE = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
URL = "https://broker.acme.example/mcp"


def test_the_registrys_entry_is_of_this_release() -> None:
    entry = json.loads((ROOT / "server.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [package] = entry["packages"]
    assert {entry["version"], package["version"]} == {project["version"]}
    assert package["identifier"] == project["name"]
    assert package["identifier"] in project["scripts"], "uvx runs the script of that name"
    # What the registry asks for beside its schema.
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert len(entry["description"]) <= 100
    assert f"mcp-name: {entry['name']}" in (ROOT / "README.md").read_text()


def test_the_registrys_entry_names_settings_that_there_are() -> None:
    [package] = json.loads((ROOT / "server.json").read_text())["packages"]
    fields = Settings.model_fields
    for one in package["environmentVariables"]:
        assert one["name"].removeprefix("MCP_BROKER_").lower() in fields, one
    public = fields["public_url"].default
    assert package["transport"]["url"] == f"{public}/mcp"


def values(tree: Any) -> list[str]:
    """Every text in it."""
    if isinstance(tree, dict | list):
        rest = tree.values() if isinstance(tree, dict) else tree
        return [one for each in rest for one in values(each)]
    return [str(tree)]


def test_each_clients_settings_can_be_read_and_hold_no_token() -> None:
    found = BLOCK.findall((ROOT / "docs" / "CLIENTS.md").read_text())
    assert len(found) >= 7
    for kind, text in found:
        told = values(PARSE[kind](text))
        assert URL in told, text
        secrets = [one for one in told if "Bearer" in one]
        assert all(re.search(r"\$|env", one) for one in secrets), secrets

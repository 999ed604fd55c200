"""The shipped rulebook with rules for tools that only tests have."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from app import assets

ROOT: Final = assets.root()
PLAYBOOKS: Final = ROOT / "tests" / "system" / "eda" / "fixtures"


def rulebook_with(playbooks: Mapping[str, Path], path: Path) -> Path:
    """Write it to `path`; `playbooks` names them by `tool.method`, or by `tool` for all methods."""
    [ruleset] = yaml.safe_load((ROOT / "rulebooks" / "rulebook_mcp.yml").read_text())
    *rules, last = ruleset["rules"]
    for name, playbook in playbooks.items():
        tool, _, method = name.partition(".")
        condition, leaves = f'event.body.tool == "{tool}"', f'event.body.tool != "{tool}"'
        if method:
            condition += f' and event.body.method == "{method}"'
            leaves += f' or event.body.method != "{method}"'
        action = {"run_playbook": {"name": str(playbook)}}
        rules.append({"name": name, "condition": condition, "action": action})
        # The last rule takes what no other does.
        last["condition"] = f"{last['condition'].removesuffix('))')} and ({leaves})))"
    path.write_text(yaml.safe_dump([ruleset | {"rules": [*rules, last]}]))
    return path

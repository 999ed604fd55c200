"""The tasks that ADAPTERS.md shows, by ansible-playbook."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.support.papers import blocks
from tests.system.eda.conftest import play
from tests.system.eda.results_api import ResultsApi

ELLIPSIS = "…"


def playbook(folder: Path, work: dict[str, Any]) -> Path:
    """The page's tasks with this work where it leaves that open."""
    [shown] = [
        one
        for one in blocks()
        if one.page == "docs/ADAPTERS.md" and "mcpbroker.eda.broker" in one.text
    ]
    claim, block = yaml.safe_load(shown.text)
    assert block["block"].count(ELLIPSIS) == 1, f"{shown.page}:{shown.line}"
    block["block"] = [work if task == ELLIPSIS else task for task in block["block"]]
    made = folder / "adapter.yml"
    plays = [{"hosts": "localhost", "gather_facts": False, "tasks": [claim, block]}]
    made.write_bytes(orjson.dumps(plays))
    return made


@pytest.mark.parametrize(
    ("work", "end"),
    [
        ({"ansible.builtin.assert": {"that": "claimed.args.text == 'hello'"}}, "result"),
        ({"ansible.builtin.fail": {"msg": "half done"}}, "error"),
    ],
)
async def test_the_tasks_of_the_page_claim_work_and_report(
    api: ResultsApi, tmp_path: Path, work: dict[str, Any], end: str
) -> None:
    command = api.command("probe", "echo", {"text": "hello"})
    play(playbook(tmp_path, work), command, api=api, workspace=tmp_path / "workspace")
    assert api.words(command) == ["claim", "progress", end]
    said = api.of(command)[-1].body
    assert said["result"] == {"ok": True} if end == "result" else "half done" in str(said["error"])

"""The log lines that docs/OBSERVABILITY.md names are those that the code writes."""

import ast
import re

from app import assets
from app.commands.state import State
from tests.house.test_tidy import DEPLOYED, ours, told, tree


def test_each_named_log_line_is_written() -> None:
    page = (assets.root() / "docs" / "OBSERVABILITY.md").read_text()
    _, _, logs = page.partition("\n## Logs\n")
    rows = re.findall(r"^\| (`.*?) \|", logs.partition("\n## ")[0], re.MULTILINE)
    names = [name for row in rows for name in re.findall("`(.*?)`", row)]
    texts = {
        node.value
        for path in ours(*DEPLOYED)
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call) and "logger" in ast.unparse(call.func)
        for node in ast.walk(call)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unwritten = [
        name
        for name in names
        if name not in list(State) and not any(text.startswith(name) for text in texts)
    ]
    assert len(names) > 10
    assert not unwritten, told("name the line as it is written now:", unwritten)

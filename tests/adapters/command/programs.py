"""Small programs of Python, as targets and mappings."""

import sys
from pathlib import Path
from typing import Any

from adapters.contract import Failure, Outcome, Result
from adapters.targets import Target

PYTHON = sys.executable


def python(workspace: Path, **fields: Any) -> Target:
    options = {"workspace": str(workspace)} | fields.pop("options", {})
    return Target(name="python", kind="command", address=PYTHON, options=options, **fields)


def script(code: str, *args: Any, **mapping: Any) -> dict[str, Any]:
    doubled = code.replace("{", "{{").replace("}", "}}")
    return {"args": ["-I", "-S", "-c", doubled, *args], **mapping}


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def done(outcome: Outcome) -> Any:
    assert isinstance(outcome, Result), outcome
    return outcome.value

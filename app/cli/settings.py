"""`broker config`: the reference of the settings, by deployment."""

from typing import Any, Final

import orjson
import typer
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Column, Table

from app.cli.common import AsJson
from app.config import DEPLOYMENTS, PREFIX
from app.config.field import change_of, unit_of

TITLES: Final = {
    "both": "App and relay, with the same values",
    "app": "The app",
    "relay": "The relay",
    "worker": "The worker, which reads those of Kafka, metrics and logs above, too",
}


def show(as_json: AsJson = False) -> None:
    """Every setting, by deployment: what it is, unit, default, when to change it.

    Each is an environment variable; <VARIABLE>_FILE names a file to read it from.
    """
    fields: dict[str, tuple[str, FieldInfo]] = {}
    for deployment, kind in DEPLOYMENTS.items():
        for name, field in kind.model_fields.items():
            fields.setdefault(name, (deployment, field))
    rows = [_row(deployment, name, field) for name, (deployment, field) in fields.items()]
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    console = Console()
    for deployment, title in TITLES.items():
        table = Table(
            Column("Variable", no_wrap=True), "Default", "Unit", "What it is, and when to change it"
        )
        table.title, table.title_justify, table.show_lines = title, "left", True
        for row in rows:
            if row["deployment"] == deployment:
                default = "(required)" if row["default"] is None else row["default"]
                about = f"{row['meaning']}\nChange: {row['change']}"
                table.add_row(row["variable"], default, row["unit"] or "", about)
        console.print(table)


def _row(deployment: str, name: str, field: FieldInfo) -> dict[str, Any]:
    default = None if field.is_required() else str(field.get_default(call_default_factory=True))
    return {
        "variable": PREFIX + name.upper(),
        "deployment": deployment,
        "unit": unit_of(field),
        "default": default,
        "meaning": field.description,
        "change": change_of(field),
    }

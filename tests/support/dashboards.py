"""The shipped dashboards, as Grafana would ask for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from app import assets

FOLDER: Final = assets.root() / "deploy" / "grafana"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel, and what it asks."""

    board: str
    title: str
    expressions: tuple[str, ...] = ()
    """PromQL."""
    statements: tuple[str, ...] = ()
    """SQL."""

    def __str__(self) -> str:
        return f"{self.board}: {self.title}"


def boards() -> dict[str, dict[str, Any]]:
    """Each dashboard, by its file's name."""
    return {path.name: orjson.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))}


def panels() -> Iterator[Panel]:
    """All of all dashboards, but for the rows that head them."""
    for name, board in boards().items():
        for one in board["panels"]:
            if one["type"] != "row":
                targets = one["targets"]
                yield Panel(
                    board=name,
                    title=one["title"],
                    expressions=tuple(t["expr"] for t in targets if "expr" in t),
                    statements=tuple(t["rawSql"] for t in targets if "rawSql" in t),
                )

"""A catalog to review as its YAML file: the reasons stand above what they are of."""

import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import typer
import yaml

from app.catalog.file import BYTES_MAX
from app.cli.common import fail
from app.cli.imports.entries import Made

WIDTH: Final = 98
HEAD: Final = (
    "Reviewed like code, then put in force by `broker catalog apply`. What is not known to bear a"
    " repetition has one attempt, and what may destroy asks a person first: relax that where you"
    " know better."
)


class _Dumper(yaml.SafeDumper):
    """Long texts as they are read, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 the name is PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def text_of(made: Made) -> str:
    """The file."""
    lines = [*_comment(f"{made.told}, imported. {HEAD}"), *_listed(made.notes)]
    for one in made.skipped:
        lines += _comment(f"Left out: {one.source}: {one.reason}")
    lines.append("tools:" if made.entries else "tools: []")
    for one in made.entries:
        lines += ["", *("  " + line for line in _listed(one.notes))]
        lines += _item(one.entry)
    lines += ["", "targets:", *_item(made.target)]
    return "\n".join(lines) + "\n"


def given(made: Made, out: Path | None, *, force: bool, as_json: bool) -> None:
    """Say it on standard output, or write `NAME.yml` in a folder; what was noticed, on stderr."""
    if len(orjson.dumps(made.catalog)) > BYTES_MAX:
        words = (
            f"the catalog has over {BYTES_MAX} bytes, which `broker catalog apply` does not take"
        )
        raise fail(f"{words}: import a part of it with --only, and others under other names")
    written: str | None = None
    if out is not None:
        written = str(_kept(made, out, force=force))
    if as_json:
        told = {
            "catalog": made.catalog,
            "written": written,
            "left_out": [{"source": one.source, "reason": one.reason} for one in made.skipped],
            "notes": {"": list(made.notes)}
            | {str(one.entry["adapter"]["target"]) + "/" + str(one.entry["method"]): list(one.notes)
               for one in made.entries if one.notes},
        }  # fmt: skip
        typer.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
        return
    if written is None:
        typer.echo(text_of(made), nl=False)
    asking = sum(one.entry["policy"].get("approval") == "ask" for one in made.entries)
    for one in made.skipped:
        typer.echo(f"left out: {one.source}: {one.reason}", err=True)
    for entry in made.entries:
        for note in entry.notes:
            typer.echo(f"{entry.entry['method']}: {note}", err=True)
    where = "" if written is None else f"{written}: "
    typer.echo(
        f"{where}{len(made.entries)} {'tool' if len(made.entries) == 1 else 'tools'} of target"
        f" {made.target['name']}, of which {asking} ask before each call; nothing is in force:"
        " review it, then `broker catalog apply`",
        err=True,
    )


def _kept(made: Made, folder: Path, *, force: bool) -> Path:
    path = folder / f"{made.target['name']}.yml"
    if path.exists() and not force:
        raise fail(f"{path} is there already, with its review; --force writes it anew")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(made), encoding="utf-8")
    return path


def _item(value: Any) -> Iterator[str]:
    dumped = yaml.dump(
        dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH
    )
    for n, line in enumerate(dumped.splitlines()):
        yield ("  - " if n == 0 else "    ") + line if line else ""


def _listed(notes: Iterable[str]) -> Iterator[str]:
    for one in notes:
        yield from _comment(one)


def _comment(text: str) -> list[str]:
    """Lines that are comments, whatever the text has."""
    clean = "".join(one if one.isprintable() else " " for one in text)
    return textwrap.wrap(clean, WIDTH, initial_indent="# ", subsequent_indent="# ")

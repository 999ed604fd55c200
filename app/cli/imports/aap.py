"""`broker catalog import aap`: the templates of an automation controller, as they are."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from adapters.aap.templates import LEFT, RESULT, Template, listed
from adapters.contract import Opening
from app.cli.imports.draft import Draft, Skipped, Source
from app.cli.imports.opening import undeclared
from app.cli.imports.options import Bearer, Ca, http_target, importing

Url = Annotated[str, typer.Argument(help="Of the controller, or below a gateway: …/api/controller")]


@importing
async def command(url: Url, bearer: Bearer = None, ca: Ca = None) -> Source:
    """Write the catalog of the templates that a token may execute; nothing is put in force.

    Surveys and prompts at launch become the tools' arguments. The worker launches such a template
    and follows its job: no playbook needs to know of the broker.
    """
    target = {"kind": "aap", **http_target(url.rstrip("/"), bearer, ca)}
    async with undeclared(target) as opening:
        return await source(opening, target)


async def source(opening: Opening, target: Mapping[str, Any]) -> Source:
    """The controller as it is now."""
    return Source(
        told=f"Automation controller at {target['address']}",
        name="aap",
        target=target,
        found=await found(opening, None),
    )


async def found(opening: Opening, told: str | None) -> list[Draft | Skipped]:  # noqa: ARG001
    """Its templates as they are now."""
    known = await listed(opening)
    named = _apart([one for one in known if isinstance(one, Template)])
    return [
        _draft(one, named[one.key])
        if isinstance(one, Template)
        else Skipped(source=one[0], reason=one[1])
        for one in known
    ]


def _apart(templates: Sequence[Template]) -> dict[str, str]:
    """Names that are no other's, by key: organizations, and workflows, may have the same ones."""
    ways: tuple[Callable[[Template], str], ...] = (
        lambda one: one.name,
        lambda one: f"{one.name} ({one.organization})",
        lambda one: f"{one.name} ({one.organization}, {one.key})",
    )
    named: dict[str, str] = {}
    for way in ways:
        left = [one for one in templates if one.key not in named]
        times = Counter(way(one) for one in left)
        named |= {one.key: way(one) for one in left if times[way(one)] == 1}
    return named


def key_of(mapping: Mapping[str, Any]) -> str:
    """By what a reviewed entry is found again."""
    return f"{'workflow' if mapping.get('workflow') else 'job'}:{mapping.get('template')}"


def _draft(template: Template, source: str) -> Draft:
    notes = ["Its source does not say whether it changes anything, so it asks first."]
    if "variables" in template.asks:
        notes.append(
            "It takes any variables at launch: those that callers may give are to be written into"
            " the input schema."
        )
    if left := [one for one in LEFT if one in template.asks]:
        notes.append(f"It also asks for {', '.join(left)}, which the template's own stand for.")
    words = template.description
    if template.labels:
        words = f"{words} Labels: {', '.join(template.labels)}.".strip()
    return Draft(
        source=source,
        key=template.key,
        short=template.name,
        title=template.name,
        description=words,
        input_schema=template.input_schema,
        output_schema=RESULT,
        mapping=template.mapping,
        destructive=True,
        notes=tuple(notes),
    )

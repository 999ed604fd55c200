"""Lists: what their URLs ask for, and the links that ask for something else."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Self
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request

from app.console.parts import Page, query_of
from app.json_values import PlainText

LIMIT: Final = 50
"""Rows of a page."""

Word = Annotated[PlainText, Field(max_length=256)]
Saved = Sequence[tuple[str, Sequence[str]]]
"""The filters by state that have a name."""


class Filter(BaseModel):
    """What the URL asks for; a field that is left blank is none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def without_blanks(cls, given: Any) -> Any:
        """A form sends its blank fields too."""
        if not isinstance(given, dict):
            return given
        blank: tuple[object, ...] = ("", [""], [])
        return {name: value for name, value in given.items() if value not in blank}

    @property
    def narrow(self) -> bool:
        """Whether anything is asked for but a page."""
        return bool(self.model_dump(exclude={"before"}, exclude_defaults=True))


class TimedFilter(Filter):
    """A filter of a time; without a zone it is UTC's, as all that the console shows."""

    since: datetime | None = None
    until: datetime | None = None

    @model_validator(mode="after")
    def in_utc(self) -> Self:
        """The same, with zones."""
        changed = {
            name: at.replace(tzinfo=UTC)
            for name in ("since", "until")
            if (at := getattr(self, name)) is not None and at.tzinfo is None
        }
        return self.model_copy(update=changed) if changed else self


def tool_of(path: str | None) -> tuple[str | None, str | None]:
    """The tool and the method that a text like `git/clone`, or `git`, names."""
    tool, _, method = (path or "").partition("/")
    return tool or None, method or None


def url(
    page: Page, request: Request, *, before: str | None = None, **changes: Sequence[str]
) -> str:
    """The same list with some fields changed, from its beginning unless `before` is given."""
    query = {**query_of(request, before=before, seen=None), **changes}
    kept = {name: values for name, values in query.items() if any(values)}
    return f"{page.url}?{urlencode(kept, doseq=True)}" if kept else page.url


def live_url(page: Page, request: Request, seen: str) -> str:
    """Where this list is followed; `seen` is the digest of what its page has."""
    query = urlencode({**query_of(request), "seen": [seen]}, doseq=True)
    return f"{page.url}/live?{query}"


def chips(
    page: Page,
    request: Request,
    saved: Saved,
    chosen: Sequence[str],
    counts: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The named filters, with how many there are where that is known."""
    return [
        {
            "title": title,
            "url": url(page, request, state=list(states)),
            "here": set(chosen) == set(states),
            "count": (counts or {}).get(title, ""),
        }
        for title, states in saved
    ]

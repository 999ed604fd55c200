"""Templates: escaped by default, and an undefined name is an error and not a gap."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.json_values import showable

HERE: Final = Path(__file__).resolve().parent
JSON_CHARS_MAX: Final = 20_000
SHORT_S: Final = 10
STEPS: Final = ((60, "s", 1), (3600, "min", 60), (86400, "h", 3600), (86400 * 60, "d", 86400))


def environment() -> Environment:
    """The templates of the console, with their filters."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"when": when, "pretty": pretty, "span": span, "took": took, "short": short}
    return made


def when(at: datetime | None) -> str:
    """A time: relative in words, exact in UTC where one hovers, focuses or has no script."""
    if at is None:
        return Markup('<span class="none">never</span>')
    utc = at.astimezone(UTC)
    exact = utc.strftime("%Y-%m-%d %H:%M:%S.") + f"{utc.microsecond // 1000:03d} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), exact, relative(utc, datetime.now(UTC))
    )


def relative(at: datetime, now: datetime) -> str:
    """A time as people say it, from now. console.js says the same."""
    seconds = (now - at).total_seconds()
    words = span(abs(seconds))
    if words == "0 s":
        return "now"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    for below, unit, size in STEPS:
        if seconds < below:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // (86400 * 30))} months"


def took(seconds: float) -> str:
    """How long something took: short ones to the tenth of a second."""
    return f"{seconds:.1f} s" if seconds < SHORT_S else span(seconds)


def pretty(value: Any) -> str:
    """JSON for people; what is very long is cut, and says so."""
    text = orjson.dumps(showable(value), option=orjson.OPT_INDENT_2, default=str).decode()
    if len(text) <= JSON_CHARS_MAX:
        return text
    return f"{text[:JSON_CHARS_MAX]}\n… {len(text) - JSON_CHARS_MAX} more characters"


def short(value: object) -> str:
    """The part of a command's id that tells it from its neighbours: a uuid v7's random end."""
    return str(value)[-8:]

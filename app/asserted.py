"""What a caller says of its call beside the request: labels, and why its model makes the call.

Neither is part of the request's fingerprint, and nothing is decided by the second: it is kept as
what the caller asserts.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, StringConstraints

from app.errors import BadRequestError
from app.json_values import PlainText

LABELS_MAX: Final = 10
LABEL_CHARS_MAX: Final = 64
LABELS_HEADER: Final = "mcp-broker-labels"
"""A list (RFC 9110, 5.6.1), beside the body's or `_meta`'s own; a label in it has no comma."""

INVOCATION_META: Final = "io.modelcontextprotocol/aiInvocation"
"""Proposed for MCP as SEP-2817, and not in a release of it: so it is read as it comes."""
ASSERTED: Final[Mapping[str, tuple[str, int]]] = {
    "invocationReason": ("invocation_reason", 2000),
    "userIntent": ("user_intent", 2000),
    "model": ("model", 255),
    "turnId": ("turn_id", 255),
    "sessionId": ("session_id", 255),
}
"""By its name there: ours, and how many characters are kept."""
UNKEPT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a text of the caller's loses: control characters but tab and newline, halves of pairs."""

UNSEEN: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that let a text be read as another."""


def _label(text: str) -> str:
    if text != text.strip():
        raise ValueError("a label has no white space around it")
    if any(unicodedata.category(one) in UNSEEN or one in TURNING for one in text):
        raise ValueError("a label has no control, line or direction characters")
    return text


Label = Annotated[
    PlainText,
    StringConstraints(strict=True, min_length=1, max_length=LABEL_CHARS_MAX),
    AfterValidator(_label),
]
"""A short text by which a caller finds its commands: a ticket, a conversation, a change."""
Labels = Annotated[list[Label], Field(max_length=LABELS_MAX)]


def labels_of(given: Iterable[str] | None, header: str | None) -> tuple[str, ...]:
    """The labels of a call: those of the body or `_meta`, then the header's; each once.

    Raises:
        BadRequestError: the header has one that is no label, or together they are too many.
    """
    found = dict.fromkeys(given or ())
    for one in (header or "").split(","):
        text = one.strip(" \t")
        if not text:
            continue
        if not (text.isascii() and text.isprintable() and len(text) <= LABEL_CHARS_MAX):
            raise BadRequestError(
                f"A label in the header {LABELS_HEADER} is 1 to {LABEL_CHARS_MAX} printable ASCII"
                " characters; others go into the body. Nothing was started."
            )
        found[text] = None
    if len(found) > LABELS_MAX:
        raise BadRequestError(
            f"A call has at most {LABELS_MAX} labels, and this one has {len(found)}."
            " Nothing was started."
        )
    return tuple(found)


def invocation_of(said: object) -> dict[str, str] | None:
    """What `_meta` says of the model's reason, of what is known there and is a text; cut to size.

    Whatever else stands there is left out: no call is refused for it.
    """
    if not isinstance(said, Mapping):
        return None
    given: Mapping[Any, Any] = said  # pyright: ignore[reportUnknownVariableType]
    kept = {
        ours: text
        for theirs, (ours, chars_max) in ASSERTED.items()
        if isinstance(one := given.get(theirs), str) and (text := _cut(one, chars_max))
    }
    return kept or None


def _cut(text: str, chars_max: int) -> str:
    kept = UNKEPT.sub("", text[: 2 * chars_max]).strip()
    return kept if len(kept) <= chars_max else f"{kept[: chars_max - 1]}…"

"""What a hostile or a careless sender writes in a field: JSON texts of every awkward kind.

A value is the text as it goes onto the wire, since much of it no JSON writer would make.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

ASTRAL: Final = st.characters(min_codepoint=0x10000)
ODD: Final = "\u2028\u2029\x85\ufeff\ufffe\uffff\ue000\u202e\u200b\u0301é²٣\xa0\r\n\t\x1b\x7f"
QUOTES: Final = "'\"`\\$;|&<>%#{}[]()!~*? \n"
TEMPLATES: Final = (
    "{{ lookup('pipe', 'id') }}",
    "{{ x }}",
    "{{",
    "{% raw %}",
    "{# x",
    "{{ input.x }}",
    "{{ steps.a.result.text }}",
    "!unsafe x",
    "!vault |\n  $ANSIBLE_VAULT;1.1;AES256",
    "${HOME}",
    "$(id)",
    "%(x)s",
    "%s%n",
    "{0.__class__}",
)
WORDS: Final = (
    "",
    " ",
    "null",
    "~",
    "true",
    "NaN",
    "1e400",
    "[erased]",
    "../..",
    "/etc/passwd",
    "-rf",
    "--help",
    "__proto__",
    "now()",
    "%00",
    "\\u0000",
    "0x1F",
    "1_000",
    "²",
    "٣",
    "' OR 1=1--",
    "<script>alert(1)</script>",
    "urn:uuid:00000000-0000-0000-0000-000000000000",
    "00000000-0000-0000-0000-000000000000",
    "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    "{0197d1f0-0000-7000-8000-000000000000}",
    "infinity",
    "-infinity",
    "9999-12-31T23:59:59+00:00_ffffffff-ffff-ffff-ffff-ffffffffffff",
    "0001-01-01T00:00:00+14:00_ffffffff-ffff-ffff-ffff-ffffffffffff",
)
NAMES: Final = (
    "_ansible_no_log",
    "_ansible_x",
    "__ansible_unsafe",
    "ansible_connection",
    "<<",
    "=",
    "$ref",
    "a.b",
    "a/b",
    "a[0]",
    "*",
    "&a",
    "🎉",
    "{{ x }}",
    "hasOwnProperty",
)
LENGTHS: Final = (128, 129, 255, 256, 500, 501, 2001, 10_001, 100_000)
EDGES: Final = tuple(
    sign * (2**bits + by) for bits in (31, 32, 53, 63) for by in (-1, 0, 1) for sign in (1, -1)
)
"""Integers at which a reader gives up; those over 64 bits are of another kind."""
TAKEN: Final = tuple(one for one in EDGES if -(2**63) <= one < 2**64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of a field."""

    written: bytes
    """JSON, or nearly."""
    refused: bool = False
    """Whether no entrance may take a body that holds it."""

    @property
    def sent(self) -> Any:
        """What it says, where it is JSON that is kept."""
        assert not self.refused
        return json.loads(self.written)

    @property
    def bare(self) -> bytes:
        """As a header, a path or a query says it: a text without its quotes."""
        try:
            said = json.loads(self.written)
        except (ValueError, RecursionError):
            return self.written[:2000]
        text = said if isinstance(said, str) else self.written.decode()[:2000]
        return text[:2000].encode(errors="surrogatepass")

    def __str__(self) -> str:
        return ascii(self.written[:120]) + ("…" if len(self.written) > 120 else "")


def of(said: Any, *, refused: bool = False, plain: bool = False) -> Value:
    """`plain`: as UTF-8; else with escapes, where what is no character can stand too."""
    text = json.dumps(said, ensure_ascii=not plain)
    return Value(written=text.encode(), refused=refused)


def texts(alphabet: str | SearchStrategy[str], **more: Any) -> SearchStrategy[Value]:
    """Texts of these characters, escaped or not."""
    written = st.text(alphabet, min_size=1, max_size=12)
    return st.builds(of, written, plain=st.booleans(), **more)


def bad(*written: bytes | str) -> SearchStrategy[Value]:
    """One of these texts, which nobody may take."""
    made = [one if isinstance(one, bytes) else one.encode() for one in written]
    return st.builds(Value, written=st.sampled_from(made), refused=st.just(value=True))


def nested(levels: int, *, lists: bool, leaf: bytes = b"1") -> bytes:
    """An object in an object, or a list in a list, so deep."""
    opened, closed = (b"[", b"]") if lists else (b'{"a":', b"}")
    return opened * levels + leaf + closed * levels


def plain_json() -> SearchStrategy[Any]:
    """Any JSON that is kept, of odd texts and names."""
    text = st.text(st.sampled_from(ODD + QUOTES + "a🎉𠮷"), max_size=8)
    leaf = st.none() | st.booleans() | st.sampled_from(TAKEN) | st.floats(-1e300, 1e300) | text
    return st.recursive(
        leaf,
        lambda one: (
            st.lists(one, max_size=4)
            | st.dictionaries(text | st.sampled_from(NAMES), one, max_size=4)
        ),
        max_leaves=12,
    )


TYPED: Final[tuple[Any, ...]] = (True, False, None, [], {}, 0, -1, "1", ["x"], {"x": 1}, [None])
KINDS: Final[dict[str, SearchStrategy[Value]]] = {
    "above U+FFFF": texts(ASTRAL),
    "odd characters": texts(st.sampled_from(ODD)),
    "control characters": texts(st.characters(min_codepoint=1, max_codepoint=31)),
    "NUL": st.builds(of, st.sampled_from(["\0", "a\0b", {"\0": 1}]), refused=st.just(value=True)),
    "half a character": st.builds(
        of,
        st.sampled_from(["\ud800", "\udfff", "a\udc00", "\udc00\ud800", {"\ud800": 1}]),
        refused=st.just(value=True),
    ),
    "quotes": texts(st.sampled_from(QUOTES)),
    "templates": st.builds(of, st.sampled_from(TEMPLATES)),
    "words": st.builds(of, st.sampled_from(WORDS)),
    "long": st.builds(
        lambda n, one: of(one * n, plain=True), st.sampled_from(LENGTHS), st.sampled_from("x🎉'")
    ),
    "whole numbers": st.builds(of, st.sampled_from(TAKEN) | st.integers(-(2**63), 2**63)),
    "over 64 bits": st.builds(
        lambda n: Value(written=n, refused=True),
        st.sampled_from([b"18446744073709551616", b"-9223372036854775809", b"9" * 5000]),
    ),
    "fractions": st.builds(of, st.sampled_from([-0.0, 1.0, 1e15, 1e22, 1e308, 5e-324, 0.3, -2.0])),
    "exponents": st.builds(
        lambda n: Value(written=n), st.sampled_from([b"1E2", b"1e+2", b"1.50", b"-0", b"1e-400"])
    ),
    "no numbers": bad("NaN", "Infinity", "-Infinity", "1e400", "-1e999"),
    "other types": st.builds(of, st.sampled_from(TYPED)),
    "nested": st.builds(
        lambda n, lists: Value(written=nested(n, lists=lists)), st.integers(2, 60), st.booleans()
    ),
    "too deep": st.builds(
        lambda n, lists: Value(written=nested(n, lists=lists), refused=True),
        st.sampled_from([80, 300, 1500, 50_000]),
        st.booleans(),
    ),
    "an empty name": st.builds(of, st.sampled_from([{"": {}}, {"": {"": []}}, [{"": None}]])),
    "odd names": st.builds(of, st.dictionaries(st.sampled_from(NAMES), plain_json(), min_size=1)),
    "a name twice": bad('{"a":1,"a":1}', r'{"a":1,"\u0061":2}', '[{"":1,"":{}}]'),
    "no JSON": bad(
        "'x'", "undefined", "0x10", "01", "+1", ".5", '"a', "[1,]", "1 // c", '"a\nb"', r'"\x"'
    ),
    "no UTF-8": bad(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf5\x80\x80\x80"'),
    "any JSON": st.builds(of, plain_json(), plain=st.booleans()),
}


def same(sent: Any, kept: Any) -> bool:
    """Whether a value came as it was sent: whole numbers are integers, and no bool is a number."""
    if isinstance(sent, bool) or isinstance(kept, bool):
        return sent is kept
    if isinstance(sent, int | float) and isinstance(kept, int | float):
        return sent == kept or math.isclose(sent, kept, rel_tol=1e-15)
    if isinstance(sent, dict) and isinstance(kept, dict):
        return sent.keys() == kept.keys() and all(same(sent[one], kept[one]) for one in sent)
    if isinstance(sent, list) and isinstance(kept, list):
        return len(sent) == len(kept) and all(map(same, sent, kept))
    return type(sent) is type(kept) and sent == kept

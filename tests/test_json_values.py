"""What JSON is taken comes back as it was sent; the rest is refused with its reason."""

import json
import math
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from app.json_values import (
    BODY_DEPTH_MAX,
    DEPTH_MAX,
    JsonRefusedError,
    JsonUnreadableError,
    KeptObject,
    KeptValue,
    PlainText,
    checked,
    integral,
    loads,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner)),
    max_leaves=20,
)


def nested(levels: int) -> Any:
    value: Any = 1
    for n in range(levels):
        value = [value] if n % 2 else {"a": value}
    return value


@given(VALUES)
def test_what_is_taken_comes_back_as_it_was_sent(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert loads(text.encode()) == value
    assert orjson.loads(checked(value)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e400}', "1e400 is beyond"),
        (b'{"a": 18446744073709551616}', "more than 64 bits"),
        (b'{"a": -9223372036854775809}', "more than 64 bits"),
        (b'{"a": %b}' % (b"9" * 100_000), "more than 64 bits"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' stands twice"),
        (b'{"a": ["x", "\\ud800"]}', "/a/1: a text with half of a surrogate pair"),
        (b'{"a": {"\\udfff": 1}}', "its name: a text with half of a surrogate pair"),
        (b'{"a": "x\\u0000y"}', "/a: a text with a NUL"),
        (b'{"\\u0000": 1}', "its name: a text with a NUL"),
        (b"[" * 100_000 + b"]" * 100_000, f"nested deeper than {BODY_DEPTH_MAX}"),
        (json.dumps(nested(BODY_DEPTH_MAX + 1)).encode(), "nested deeper"),
    ],
)
def test_what_would_come_back_otherwise_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(JsonRefusedError, match=r"(?s).*") as refused:
        loads(text)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        ("{}".encode("utf-16-le"), "not JSON"),
        (b'"\xff"', "not UTF-8"),
        (b"\x1f\x8b\x08\x00", "not UTF-8"),
        (b"{", "line 1 column 2"),
        (b"", "not JSON"),
    ],
)
def test_what_is_no_json_says_so(text: bytes, said: str) -> None:
    with pytest.raises(JsonUnreadableError, match=said):
        loads(text)


@pytest.mark.parametrize(
    "value",
    [
        {"a": math.nan},
        {"a": [math.inf]},
        {"a": 2**64},
        {"a": -(2**63) - 1},
        {"a": "\ud83d"},
        {"\ude00": 1},
        {"a": "\0"},
        {"\0": 1},
        {"a": {1: 2}},
        {"a": object()},
        nested(DEPTH_MAX + 1),
        nested(100_000),
    ],
    ids=range(12),
)
def test_a_value_that_is_not_kept_is_refused_too(value: Any) -> None:
    with pytest.raises(JsonRefusedError):
        checked(value)


@pytest.mark.parametrize("value", ["😀", {"": 1}, {"a": "\\u0000"}, {"a": None}, nested(DEPTH_MAX)])
def test_odd_values_are_kept(value: Any) -> None:
    assert orjson.loads(checked(value)) == value
    assert loads(json.dumps({"args": value}).encode()) == {"args": value}


def test_the_fields_of_models_take_and_refuse_the_same() -> None:
    class Model(BaseModel):
        value: KeptValue = None
        args: KeptObject = {}
        text: PlainText = ""

    assert Model(value=nested(DEPTH_MAX), args={"": 1}, text="😀").args == {"": 1}
    for odd in ({"value": math.nan}, {"args": {"a": nested(DEPTH_MAX)}}, {"text": "\0"}):
        with pytest.raises(ValidationError):
            Model.model_validate(odd)


def test_whole_numbers_are_integers_and_other_numbers_stay() -> None:
    value = {"a": 1.0, "b": [-0.0, 1.5, 1e16], "c": 1e300, "d": "1.0", "e": True, "f": None}
    made = integral(value, checked(value))
    assert made == value
    assert checked(made) == (
        b'{"a":1,"b":[0,1.5,10000000000000000],"c":1e+300,"d":"1.0","e":true,"f":null}'
    )


def test_hostile_texts_are_refused_in_time_that_grows_with_their_length() -> None:
    began = time.monotonic()
    for text in (b"[" * (1 << 20), b"9" * (1 << 20), b'{"a":' * 200_000, b'"\\u0000' * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011 which of the two is not what this is about
            loads(text)
    assert time.monotonic() - began < 2

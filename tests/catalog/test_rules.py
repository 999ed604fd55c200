"""Rules in CEL: checked when written, bounded, and true, false, or no answer for any value."""

import contextlib
import time
from functools import reduce
from typing import Any

import pytest

from app.catalog.rules import VALUE_BYTES_MAX, Asked, Rule, RuleError, UnevaluableError, kept

KNOWN = {"amount": {}, "dest": {}}
DEEP = reduce(lambda deep, _: [deep], range(62), 1)


def asked(args: dict[str, Any] | None = None, **more: Any) -> Asked:
    values: dict[str, Any] = {"client": "c", "groups": ["staff"], "scopes": ["tools"]}
    return Asked(args=args, tenant="demo", user="ann", **(values | more))


@pytest.mark.guarantee("rules:checked")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("args.amount >", "Syntax error"),
        ("", "Syntax error"),
        ("args.amuont > 1", "args.amuont is no argument"),
        ("claims.gruops == []", "undeclared reference to 'claims.gruops'"),
        ("amount > 1", "undeclared reference to 'amount'"),
        ("1", "is of type INT"),
        ("claims.user", "is of type STRING"),
        ("claims.user > 1", "no matching overload"),
        ("args.amount + 1 > 2", r"there is no \+"),
        ("args.dest.map(x, x) == []", "map or filter"),
        ("args.dest.all(x, x.all(y, y))", "within another one"),
        ("args.dest . exists ( x , args.dest == x)", "args stands within"),
        ("args.dest.matches(args.amount)", "matches takes a text"),
        ("true // args", "no comment"),
        ("args.dest == '\0'", "without NUL"),
        ("args.dest == '\ud800'", "lone surrogates"),
        ("😀", "Syntax error"),
        ("{{ args.dest }}", "Syntax error|of type"),
        ("(" * 400 + "true" + ")" * 400, "recursion"),
        ("args.amount" + ".a" * 400 + " == 1", "recursion"),
        (" || ".join(["args.dest == 'x'"] * 80), "1000 characters at most"),
    ],
)
def test_what_is_no_rule_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(RuleError, match=said) as refused:
        Rule.compile(text, known=KNOWN)
    assert len(str(refused.value)) < 500


@pytest.mark.guarantee("rules:checked")
def test_a_name_within_a_text_is_no_argument() -> None:
    for text in (
        "args.dest == 'args.nothing'",
        'args.dest == "it\\"s args.nothing + map"',
        "args.dest == r'args.nothing'",
        'args.dest == """args."nothing" """',
        "args.dest == 'http://x'",
        "has(args.amount) && args.amount > 1 || 'x' in args.dest",
        "args.dest.exists(one, one in claims.groups) && args.dest.matches('^a+$')",
    ):
        assert Rule.compile(text, known=KNOWN).text == text


@pytest.mark.guarantee("rules:evaluated")
@pytest.mark.parametrize(
    ("text", "args", "true"),
    [
        ("args.amount > 1000", {"amount": 1001}, True),
        ("args.amount > 1000", {"amount": 1000.5}, True),
        ("args.amount > 1000", {"amount": 2**63 - 1}, True),
        ("args.amount > 1000", {"amount": -(2**63)}, False),
        ("args.amount < 1.5", {"amount": 1}, True),
        ("args[''] == 1", {"": 1}, True),
        ("args.amount > 1000", {"amount": 2**63}, True),
        ("size(args.s) == 1", {"s": "😀"}, True),
        ("args.s.matches('^(a+)+$')", {"s": "a" * 30_000 + "!"}, False),
        ("args.flag", {"flag": True}, True),
        ("args.deep == args.deep", {"deep": DEEP}, True),
        ("claims.user == 'ann' && 'staff' in claims.groups", {}, True),
        ("claims.tenant == 'other' || 'x' in labels", {}, False),
        ("has(args.nothing) && args.nothing == 1", {}, False),
    ],
)
def test_a_rule_is_true_or_false(text: str, args: dict[str, Any], *, true: bool) -> None:
    assert Rule.compile(text).holds(asked(args)) is true


@pytest.mark.guarantee("rules:evaluated")
@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        ("args.amount > 1000", {}, "Key not found"),
        ("args.amount > 1000", {"amount": "1001"}, "No matching overload"),
        ("args.amount > 1000", {"amount": None}, "No matching overload"),
        ("args.amount > 1000", {"amount": {"$gt": 1}}, "No matching overload"),
        ("args.s == 'a'", {"s": "a\0b"}, "NUL"),
        ("args.s == 'a'", {"s": "a", "k\0z": 1}, "NUL"),
        ("args.amount > 1000", {"amount": 10**40}, "64 bit|not taken|range"),
        ("args.amount > 1000", {"amount": 1, "other": float("nan")}, "a JSON number|NaN|number"),
        ("args.s == 'x'", {"s": "\ud800"}, "surrogate|UTF-8"),
        ("args.s == 'x'", {"s": "x", "\udfff": 1}, "surrogate|UTF-8|str"),
        ("args.flag", {"flag": 1}, "came to INT"),
        ("args.amount / 0 == 1", {"amount": 1}, "divide by zero"),
        ("args.amount * 2 > 1", {"amount": 2**62}, "overflow"),
        ("args.l.all(x, x > 0)", {"l": [1] * 10_001}, "Iteration budget"),
        ("args.l == args.l", {"l": "x" * VALUE_BYTES_MAX}, "over 65536 bytes"),
        ("[1][args.amount] == 1", {"amount": 9}, "Index error"),
        ("duration(args.s) > duration('1s')", {"s": "soon"}, "Duration"),
    ],
)
def test_what_comes_to_neither_says_why(text: str, args: dict[str, Any], said: str) -> None:
    rule = Rule.compile(text)
    with pytest.raises(UnevaluableError, match=said) as problem:
        rule.holds(asked(args))
    assert len(str(problem.value)) < 500


@pytest.mark.guarantee("rules:evaluated")
def test_a_value_that_is_too_deep_never_reaches_the_library() -> None:
    """It would crash the process: its conversion recurses without a bound."""
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnevaluableError, match="nested deeper"):
        Rule.compile("args.d == 1").holds(asked({"d": deep}))


@pytest.mark.guarantee("rules:evaluated")
def test_what_is_not_known_of_a_call_is_read_by_no_rule() -> None:
    step = Asked(args=None, tenant="demo", user="ann")
    assert Rule.compile("claims.user == 'ann'").holds(step)
    for text in ("args.x == 1", "has(args.x)", "!('x' in claims.groups)", "claims.scopes == []"):
        with pytest.raises(UnevaluableError, match="No value with name"):
            Rule.compile(text).holds(step)


@pytest.mark.guarantee("rules:bounded")
@pytest.mark.parametrize(
    "text",
    [
        "args.l == args.l" + " && args.l == args.l" * 45,
        " && ".join(["args.l.all(x, x < 99999)"] * 30),
        "args.l.all(x, x in claims.groups || x != 'z')",
        "[args].all(x, x.l == x.l)",
        "size(string(args.l[0])) < 9" + " && size(args.l) > 0" * 40,
    ],
)
def test_the_worst_rules_over_the_largest_values_are_quick(text: str) -> None:
    rule = Rule.compile(text)
    worst = asked({"l": list(range(9000))}, groups=[f"g{n}" for n in range(900)])
    began = time.process_time()
    with contextlib.suppress(UnevaluableError):  # its budget of turns may be over
        rule.holds(worst)
    assert time.process_time() - began < 0.5, "measured at 0.05 s and less"


@pytest.mark.guarantee("rules:evaluated")
def test_a_rule_of_another_release_that_this_one_cannot_read_answers_nothing() -> None:
    with pytest.raises(UnevaluableError, match="this release cannot read the rule"):
        kept("tomorrow(args.x)").holds(asked({}))
    assert kept("args.x == 1").holds(asked({"x": 1}))

"""Rules in CEL over a call: its arguments, who makes it, its labels. Pure, bounded, true or false.

https://github.com/google/cel-spec, by Google's C++ implementation: it checks names and types when a
rule is written, its patterns are RE2's, and it stops a loop at 10,000 turns. What could still grow
or multiply is not in this CEL: `+`, `map` and `filter`, a loop within a loop, `args` within one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Self

from cel_expr_python import cel

from app.errors import cut
from app.identity import Identity
from app.json_values import DEPTH_MAX, JsonRefusedError, checked

CHARS_MAX: Final = 1000
"""Of a rule."""
VALUE_BYTES_MAX: Final = 64 << 10
"""Of the arguments that a rule is asked about, as JSON."""
SUBSET: Final = """
name: rules
stdlib:
  exclude_macros: [map, filter]
  exclude_functions:
    - name: "_+_"
"""
LITERAL: Final = re.compile(
    r"[rR]?(?:'''(?:.|\n)*?'''|\"\"\"(?:.|\n)*?\"\"\")"
    r"|[rR](?:'[^'\n]*'|\"[^\"\n]*\")"
    r"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
)
"""A text in a rule (CEL's STRING_LIT), so that what is within one is not taken for a name."""
COMMENT: Final = "//"
TEXT: Final = '""'
LOOP: Final = re.compile(r"\.\s*(?:all|exists|exists_one)\s*\(")
MATCHES: Final = re.compile(r"\bmatches\b")
MATCHES_TEXT: Final = re.compile(r'\.\s*matches\s*\(\s*""\s*\)')
ARGS: Final = re.compile(r"\bargs\b")
ARGUMENT: Final = re.compile(r"(?<![\w.])args\s*\.\s*([A-Za-z_]\w*)")
WORDS: Final = re.compile(r" ?\(in container ''\)|^[A-Z_]+: | ?\[[A-Z_]+\]$")
CLAIMS: Final = ("tenant", "user", "client", "groups", "scopes")


class RuleError(ValueError):
    """This is no rule; the message says why."""


class UnevaluableError(Exception):
    """A rule came to no answer for this call; the message says why, for operators."""


@cache
def environment() -> Any:
    """What every rule is compiled in: constant, and made once."""
    text, texts = cel.Type.STRING, cel.Type.List(cel.Type.STRING)
    claims = {f"claims.{name}": text for name in CLAIMS[:3]}
    claims |= {f"claims.{name}": texts for name in CLAIMS[3:]}
    args = {"args": cel.Type.Map(text, cel.Type.DYN), "labels": texts}
    return cel.NewEnv(config=cel.NewEnvConfigFromYaml(SUBSET), variables=args | claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a rule may read of a call; what is None is not known, and no rule can read it."""

    args: Mapping[str, Any] | None
    tenant: str
    user: str
    client: str | None = None
    groups: Sequence[str] | None = None
    scopes: Sequence[str] | None = None
    labels: Sequence[str] | None = ()

    @classmethod
    def of(cls, who: Identity, args: Mapping[str, Any] | None, labels: Sequence[str] = ()) -> Self:
        """Of a call by somebody who is logged in."""
        return cls(
            args=args,
            tenant=who.tenant_id,
            user=who.user_id,
            client=who.client_id,
            groups=sorted(who.groups),
            scopes=sorted(who.scopes),
            labels=labels,
        )

    def values(self) -> dict[str, Any]:
        """By the names that rules have for it.

        Raises:
            UnevaluableError: the arguments are larger, or odder, than rules are asked about.
        """
        found: dict[str, Any] = {f"claims.{name}": getattr(self, name) for name in CLAIMS}
        found["args"] = self.args
        found["labels"] = None if self.labels is None else list(self.labels)
        known = {name: value for name, value in found.items() if value is not None}
        # Beyond what is kept, the library is not to be trusted: it reads a text up to its NUL, and
        # a value of great depth ends the process.
        try:
            size = len(checked(known, depth_max=DEPTH_MAX + 1))
        except JsonRefusedError as error:
            raise UnevaluableError(f"the call's values: {cut(str(error))}") from error
        if size > VALUE_BYTES_MAX:
            raise UnevaluableError(f"the call's values have over {VALUE_BYTES_MAX} bytes")
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, compiled once."""

    text: str
    program: Any = field(repr=False, compare=False)

    @classmethod
    def compile(cls, text: str, *, known: Mapping[str, Any] | None = None) -> Self:
        """Check a rule; `known` are the arguments that it may name.

        Raises:
            RuleError: its syntax, a name or a type is wrong, or it is not of the bounded kind.
        """
        if len(text) > CHARS_MAX:
            raise RuleError(f"a rule has {CHARS_MAX} characters at most, this one {len(text)}")
        if "\0" in text or any("\ud800" <= one <= "\udfff" for one in text):
            raise RuleError("a rule is text without NUL and lone surrogates")
        bare = LITERAL.sub(TEXT, text)
        _bounded(bare)
        try:
            program = environment().compile(text)
        except (RuntimeError, TypeError) as error:
            raise RuleError(f"{cut(_said(error))}{_hint(bare)}") from error
        made = program.return_type().name()
        if made not in {"BOOL", "DYN"}:
            raise RuleError(f"a rule is true or false, this one is of type {made}")
        for name in ARGUMENT.findall(bare):
            if known is not None and name not in known:
                raise RuleError(f"args.{name} is no argument of the input_schema")
        return cls(text=text, program=program)

    def holds(self, asked: Asked) -> bool:
        """Whether it is true of this call.

        Raises:
            UnevaluableError: neither true nor false came of it.
        """
        try:
            found = self.program.eval(data=asked.values())
            value = found.value()
        except (RuntimeError, TypeError, ValueError) as error:
            raise UnevaluableError(cut(_said(error))) from error
        if isinstance(value, bool):
            return value
        if found.type().name() == "ERROR":
            raise UnevaluableError(cut(str(value)))
        raise UnevaluableError(f"it came to {found.type().name()}, not to true or false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A rule of a catalog that this release cannot compile: it answers nothing."""

    text: str
    problem: str

    def holds(self, _: Asked) -> bool:
        """Raises UnevaluableError."""
        raise UnevaluableError(f"this release cannot read the rule: {self.problem}")


def kept(text: str) -> Rule | Broken:
    """The rule of a text that was checked when it was written, by this release or another."""
    try:
        return Rule.compile(text)
    except RuleError as error:
        return Broken(text=text, problem=str(error))


def _bounded(bare: str) -> None:
    """Refuse what could take time out of proportion.

    Raises:
        RuleError: a loop within a loop, `args` within one, or a pattern that is no text.
    """
    if COMMENT in bare:
        raise RuleError("a rule has no comment")
    if len(MATCHES.findall(bare)) != len(MATCHES_TEXT.findall(bare)):
        raise RuleError('matches takes a text: args.name.matches("^a")')
    for loop in LOOP.finditer(bare):
        body = _within(bare, loop.end())
        if LOOP.search(body):
            raise RuleError("all, exists or exists_one stands within another one")
        if ARGS.search(body):
            raise RuleError("args stands within all, exists or exists_one; name the item there")


def _within(bare: str, start: int) -> str:
    """What stands up to the parenthesis that closes."""
    depth = 1
    for place in range(start, len(bare)):
        depth += {"(": 1, ")": -1}.get(bare[place], 0)
        if depth == 0:
            return bare[start:place]
    return bare[start:]


def _said(error: Exception) -> str:
    """The library's words, on one line, without its codes and its copy of the rule."""
    lines = [line for line in str(error).splitlines() if not line.lstrip().startswith("|")]
    return WORDS.sub("", " ".join(lines)).replace("ERROR: <input>:", "at ").strip()


def _hint(bare: str) -> str:
    if "+" in bare or re.search(r"\.\s*(map|filter)\s*\(", bare):
        return " (there is no +, map or filter in rules)"
    return ""

"""What a target and a mapping of kind `command` may say."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from adapters.command import arguments
from adapters.contract import Known
from adapters.targets import Target

LIMITS: Final[Mapping[str, str]] = {
    "cpu_s": "RLIMIT_CPU",
    "memory_bytes": "RLIMIT_AS",
    "file_bytes": "RLIMIT_FSIZE",
    "processes": "RLIMIT_NPROC",
    "open_files": "RLIMIT_NOFILE",
}
LIMITS_BY_DEFAULT: Final[Mapping[str, int]] = {
    "RLIMIT_CORE": 0,
    "RLIMIT_FSIZE": 1024**3,
    "RLIMIT_NOFILE": 1024,
}
STDIN: Final = ("args", "none")
STDOUT: Final = ("json", "text")
GRACE_S: Final = 5.0
GRACE_MAX_S: Final = 10.0
"""Less than an executor waits for a call that it has stopped."""
EXIT_MAX: Final = 255
OPTIONS: Final = {"env", "inherit", "workspace", "folder", "limits", "grace_s"}
MAPPING: Final = {"args", "stdin", "stdout", "exit_codes"}


def check(target: Target, mapping: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with them."""
    if not PurePath(target.address).is_absolute():
        yield "a command's target has a program's absolute path as its address"
    yield from options(target.options)
    yield from credential(target.credential)
    if unknown := sorted(set(mapping) - MAPPING):
        yield f"adapter has no {', '.join(unknown)}; it has {', '.join(sorted(MAPPING))}"
    yield from arguments.problems(mapping.get("args", []))
    for name, choices in (("stdin", STDIN), ("stdout", STDOUT)):
        if mapping.get(name, choices[0]) not in choices:
            yield f"adapter.{name} is one of {', '.join(choices)}"
    codes = mapping.get("exit_codes", {})
    if not isinstance(codes, Mapping) or not all(
        _is_exit(code) and known in set(Known) for code, known in codes.items()
    ):
        yield f"adapter.exit_codes gives exit codes one of {', '.join(Known)}"


def _is_exit(code: Any) -> bool:
    return str(code).isdecimal() and str(code).isascii() and 0 <= int(code) <= EXIT_MAX


def options(given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a program's options."""
    if unknown := sorted(set(given) - OPTIONS):
        yield f"options have no {', '.join(unknown)}; they have {', '.join(sorted(OPTIONS))}"
    env = given.get("env", {})
    if not isinstance(env, Mapping) or not all(isinstance(one, str) for one in env.values()):
        yield "options.env gives names texts"
    inherit = given.get("inherit", [])
    if not isinstance(inherit, list) or not all(isinstance(one, str) for one in inherit):
        yield "options.inherit is a list of names of the executor's environment"
    for name in ("workspace", "folder"):
        path = given.get(name)
        if path is not None and not (isinstance(path, str) and PurePath(path).is_absolute()):
            yield f"options.{name} is an absolute path"
    limits = given.get("limits", {})
    if not isinstance(limits, Mapping) or not all(
        name in LIMITS and type(bound) is int and bound > 0 for name, bound in limits.items()
    ):
        yield f"options.limits gives {', '.join(LIMITS)} numbers above 0"
    grace_s = given.get("grace_s", GRACE_S)
    if type(grace_s) not in (int, float) or not 0 <= grace_s <= GRACE_MAX_S:
        yield f"options.grace_s is a number of seconds up to {GRACE_MAX_S:g}"


def credential(given: Mapping[str, Any] | None) -> Iterator[str]:
    """What is wrong with a program's credential."""
    if given is None:
        return
    values = given.get("values")
    if given.get("type") != "env" or not isinstance(values, Mapping):
        yield "a command's credential is of type env, with values: references by variable"

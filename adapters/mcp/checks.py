"""What a target and a mapping of kind `mcp` may say."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from adapters import authorization, templates
from adapters.command import checks as command
from adapters.contract import Known
from adapters.http.checks import address
from adapters.mcp.digests import PREFIX
from adapters.targets import Target

STDIO: Final = "stdio:"
MAPPING: Final = {"tool", "digest", "args", "on_tool_error"}
HTTP_OPTIONS: Final = {"era"}
ERAS: Final = ("auto", "legacy", "2026-07-28")
DIGEST: Final = re.compile(re.escape(PREFIX) + r"[0-9a-f]{64}")


def check(target: Target, mapping: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with them."""
    if target.options.get("era", "auto") not in ERAS:
        yield f"options.era is one of {', '.join(ERAS)}"
    yield from _stdio(target) if target.address.startswith(STDIO) else _http(target)
    if unknown := sorted(set(mapping) - MAPPING):
        yield f"adapter has no {', '.join(unknown)}; it has {', '.join(sorted(MAPPING))}"
    if not isinstance(mapping.get("tool"), str):
        yield "adapter.tool is the name of the server's tool"
    if not DIGEST.fullmatch(str(mapping.get("digest", f"{PREFIX}{'0' * 64}"))):
        yield f"adapter.digest is {PREFIX} and 64 hexadecimal digits"
    if not isinstance(mapping.get("args", {}), Mapping):
        yield "adapter.args is an object: the arguments of the server's tool"
    if (wrong := templates.problem(mapping.get("args"))) is not None:
        yield wrong
    if mapping.get("on_tool_error", Known.REFUSED) not in set(Known) - {Known.DONE}:
        yield "adapter.on_tool_error is refused, not_done or unknown"


def _http(target: Target) -> Iterator[str]:
    yield from address(target)
    yield from authorization.problems(target.credential)
    if unknown := sorted(set(target.options) - HTTP_OPTIONS):
        yield f"options of a server at a URL have no {', '.join(unknown)}"


def _stdio(target: Target) -> Iterator[str]:
    if not PurePath(target.address.removeprefix(STDIO)).is_absolute():
        yield "the address of a server on stdio is `stdio:` and a program's absolute path"
    options = dict(target.options)
    options.pop("era", None)
    args = options.pop("args", [])
    if not isinstance(args, list) or not all(isinstance(one, str) for one in args):
        yield "options.args is a list of texts"
    yield from command.options(options)
    yield from command.credential(target.credential)

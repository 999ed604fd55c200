"""What a target and a mapping of kind `grpc` may say."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import grpc

from adapters import authorization, templates
from adapters.contract import Known
from adapters.grpc.descriptors import DescriptorError, method
from adapters.targets import Target

ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
MAPPING: Final = {"method", "descriptors", "digest", "message", "statuses", "stream"}
OPTIONS: Final = {"plaintext", "reflection"}
STREAM: Final = ("all", "last")


def check(target: Target, mapping: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with them."""
    if not ADDRESS.fullmatch(target.address):
        yield "a gRPC target has host:port as its address"
    if unknown := sorted(set(target.options) - OPTIONS):
        yield f"options have no {', '.join(unknown)}; they have {', '.join(sorted(OPTIONS))}"
    if not all(isinstance(target.options.get(name, False), bool) for name in OPTIONS):
        yield f"options: {' and '.join(sorted(OPTIONS))} are true or false"
    yield from authorization.problems(target.credential)
    if unknown := sorted(set(mapping) - MAPPING):
        yield f"adapter has no {', '.join(unknown)}; it has {', '.join(sorted(MAPPING))}"
    try:
        method(str(mapping.get("descriptors", "")), str(mapping.get("method", "")))
    except DescriptorError as error:
        yield f"adapter: {error}"
    if not isinstance(mapping.get("message", {}), Mapping):
        yield "adapter.message is an object: the request in protobuf's JSON form"
    if (wrong := templates.problem(mapping.get("message"))) is not None:
        yield wrong
    statuses = mapping.get("statuses", {})
    names = {one.name for one in grpc.StatusCode}
    if not isinstance(statuses, Mapping) or not all(
        name in names and known in set(Known) - {Known.DONE} for name, known in statuses.items()
    ):
        yield "adapter.statuses gives names of statuses one of refused, not_done, unknown"
    if mapping.get("stream", STREAM[0]) not in STREAM:
        yield f"adapter.stream is one of {', '.join(STREAM)}"

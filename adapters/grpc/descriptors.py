"""A method's messages, of descriptors that were pinned when the tool was reviewed.

They are a FileDescriptorSet with all that the method's file needs, in base64; so no server can
change what a call's arguments become.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.message import DecodeError, Message

File = descriptor_pb2.FileDescriptorProto
WELL_KNOWN: Final = {
    one.DESCRIPTOR.name: one.DESCRIPTOR
    for one in (
        any_pb2,
        api_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        source_context_pb2,
        struct_pb2,
        timestamp_pb2,
        type_pb2,
        wrappers_pb2,
    )
}


class DescriptorError(ValueError):
    """The descriptors, or the method's name, cannot be worked with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What a call needs to know of its method."""

    path: str
    """As HTTP/2 has it: `/package.Service/Method`."""
    request: type[Message]
    response: type[Message]
    streams: bool
    """Whether the server answers with many messages."""
    pool: descriptor_pool.DescriptorPool


@lru_cache(maxsize=1024)
def method(descriptors: str, name: str) -> Method:
    """A method by its name, `package.Service/Method`.

    Raises:
        DescriptorError: there is none, or it is not for one request.
    """
    pool = pool_of(files_of(descriptors))
    service, _, short = name.rpartition("/")
    try:
        found: Any = pool.FindServiceByName(service).methods_by_name[short]
    except KeyError:
        raise DescriptorError(f"the descriptors have no method {name}") from None
    if found.client_streaming:
        raise DescriptorError(f"{name} takes a stream of requests, which a call is not")
    return Method(
        path=f"/{service}/{short}",
        request=message_factory.GetMessageClass(found.input_type),
        response=message_factory.GetMessageClass(found.output_type),
        streams=found.server_streaming,
        pool=pool,
    )


def files_of(descriptors: str) -> list[File]:
    """The files of a set in base64.

    Raises:
        DescriptorError: it is none.
    """
    try:
        raw = base64.b64decode(descriptors, validate=True)
        return list(descriptor_pb2.FileDescriptorSet.FromString(raw).file)
    except (binascii.Error, DecodeError, ValueError, TypeError) as error:
        raise DescriptorError(f"the descriptors are no FileDescriptorSet: {error}") from None


def pool_of(files: Iterable[File]) -> descriptor_pool.DescriptorPool:
    """A pool of files in any order; Google's own well-known ones may be left out.

    Raises:
        DescriptorError: a file is missing, or contradicts another.
    """
    pool = descriptor_pool.DescriptorPool()
    try:
        for one in _in_order({one.name: one for one in files}):
            pool.Add(one)  # pyright: ignore[reportDeprecated]
            pool.FindFileByName(one.name)
    except (TypeError, KeyError, RecursionError) as error:
        raise DescriptorError(f"the descriptors do not fit together: {error}") from None
    return pool


def _in_order(files: dict[str, File]) -> Iterator[File]:
    """Each after those that it imports."""
    done = set[str]()

    def visit(name: str, above: tuple[str, ...]) -> Iterator[File]:
        if name in done:
            return
        if name in above:
            raise DescriptorError(f"the file {name} imports itself")
        one = files[name] if name in files else _well_known(name)
        for needed in one.dependency:
            yield from visit(needed, (*above, name))
        done.add(name)
        yield one

    for name in files:
        yield from visit(name, ())


def _well_known(name: str) -> File:
    found = File()
    try:
        WELL_KNOWN[name].CopyToProto(found)
    except KeyError:
        raise DescriptorError(f"the descriptors lack the file {name}") from None
    return found

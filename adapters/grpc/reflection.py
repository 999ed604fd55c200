"""A server's own descriptors, to be reviewed and pinned: by its reflection service."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from adapters.contract import TARGET_UNAVAILABLE, CallFailedError, Known
from adapters.grpc.describing import OWN, digest_of
from adapters.grpc.descriptors import WELL_KNOWN

Metadata = tuple[tuple[str, str], ...]
ASK_S: Final = 30.0
FILES_MAX: Final = 2000
VERSIONS: Final = ("v1", "v1alpha")
"""Of the reflection service; the messages of both are the same on the wire."""


async def services(channel: grpc.aio.Channel, metadata: Metadata = ()) -> list[str]:
    """The names of a server's services, but for reflection's own.

    Raises:
        CallFailedError: the server does not say.
    """
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await _ask(channel, request, metadata)
    names = [one.name for one in answer.list_services_response.service]
    return sorted(one for one in names if not one.startswith(OWN))


async def descriptors(channel: grpc.aio.Channel, service: str, metadata: Metadata = ()) -> str:
    """All files that a service needs, as a mapping has them.

    Raises:
        LookupError: the server does not know the service.
        CallFailedError: the server does not say.
    """
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    waiting = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)]
    while waiting and len(files) < FILES_MAX:
        answer = await _ask(channel, waiting.pop(), metadata)
        if answer.HasField("error_response"):
            raise LookupError(answer.error_response.error_message)
        for raw in answer.file_descriptor_response.file_descriptor_proto:
            one = descriptor_pb2.FileDescriptorProto.FromString(raw)
            files[one.name] = one
        missing = {name for one in files.values() for name in one.dependency} - set(files)
        missing -= set(WELL_KNOWN)
        waiting = [
            reflection_pb2.ServerReflectionRequest(file_by_filename=name)
            for name in sorted(missing)
        ]
    made = descriptor_pb2.FileDescriptorSet(file=[files[name] for name in sorted(files)])
    return base64.b64encode(made.SerializeToString(deterministic=True)).decode()


class Digests:
    """The digests of a server's methods as it describes them, kept for a while."""

    def __init__(self, *, kept_s: float) -> None:
        self._kept_s = kept_s
        self._asking = asyncio.Lock()
        self._told: dict[str, tuple[float, str | None]] = {}

    async def of(self, channel: grpc.aio.Channel, name: str, metadata: Metadata) -> str | None:
        """The digest of a method now; None where there is none.

        Raises:
            CallFailedError: the server does not say.
        """
        now = asyncio.get_running_loop().time()
        service = name.rpartition("/")[0]
        async with self._asking:
            asked_at, told = self._told.get(service, (0.0, None))
            if service not in self._told or now - asked_at > self._kept_s:
                try:
                    told = await descriptors(channel, service, metadata)
                except LookupError:
                    told = None
                self._told[service] = (now, told)
        return None if told is None else digest_of(told, name)


# A server without the version may end the call before the request is written: grpc then says
# INTERNAL, whatever the server said.
LACKS: Final = frozenset({grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL})


async def _ask(channel: grpc.aio.Channel, request: Any, metadata: Metadata) -> Any:
    """The answer of the newest version that the server has."""
    words = "The server does not describe its services"
    for version in VERSIONS:
        try:
            answer = await _asked(channel, version, request, metadata)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code in LACKS and version != VERSIONS[-1]:
                continue
            raise CallFailedError(
                Known.NOT_DONE, TARGET_UNAVAILABLE, f"{words}: {code.name}"
            ) from None
        if answer is not None:
            return answer
    raise CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, f"{words}.")


async def _asked(
    channel: grpc.aio.Channel, version: str, request: Any, metadata: Metadata
) -> Any | None:
    async def one() -> AsyncIterator[Any]:
        yield request

    call: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in call(one(), metadata=metadata, timeout=ASK_S):
        return answer
    return None

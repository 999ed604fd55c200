"""A real grpcio server, with reflection; its messages are made here, as no compiler is."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

NAME = "test.v1.Work"
Field = descriptor_pb2.FieldDescriptorProto


def file_of() -> descriptor_pb2.FileDescriptorProto:
    made = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test.v1", syntax="proto3")
    made.dependency.append("google/protobuf/timestamp.proto")
    request = made.message_type.add(name="Request")
    kinds = {
        "name": Field.TYPE_STRING,
        "count": Field.TYPE_INT64,
        "data": Field.TYPE_BYTES,
        "ratio": Field.TYPE_DOUBLE,
        "flag": Field.TYPE_BOOL,
        "a_code": Field.TYPE_INT32,
    }
    for n, (name, kind) in enumerate(kinds.items(), 1):
        request.field.add(name=name, number=n, type=kind, label=Field.LABEL_OPTIONAL)
    many = Field.LABEL_REPEATED
    request.field.add(name="tags", number=7, type=Field.TYPE_STRING, label=many)
    request.field.add(
        name="at", number=8, type=Field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp"
    )
    kind = made.enum_type.add(name="Colour")
    kind.value.add(name="NONE", number=0)
    kind.value.add(name="RED", number=1)
    request.field.add(name="colour", number=9, type=Field.TYPE_ENUM, type_name=".test.v1.Colour")
    service = made.service.add(name="Work")
    for name, streams in (
        ("Do", (False, False)),
        ("Watch", (False, True)),
        ("Feed", (True, False)),
    ):
        service.method.add(
            name=name,
            input_type=".test.v1.Request",
            output_type=".test.v1.Request",
            client_streaming=streams[0],
            server_streaming=streams[1],
        )
    return made


def descriptors() -> str:
    made = descriptor_pb2.FileDescriptorSet(file=[file_of()])
    return base64.b64encode(made.SerializeToString()).decode()


@dataclass
class Service:
    """What it was asked, and what it does."""

    address: str = ""
    metadata: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def do(self, request: Any, context: Any) -> Any:
        self.metadata.append(dict(context.invocation_metadata()))
        if request.name == "wait":
            await self._wait()
        if request.name == "large":
            request.tags.extend(["x" * 1000] * 500)
        if request.name == "token":
            request.name = str(self.metadata[-1].get("authorization"))
        if request.a_code:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "2500"),))
            codes = {one.value[0]: one for one in grpc.StatusCode}
            await context.abort(codes[request.a_code], "because")
        return request

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for n in range(request.count):
            yield type(request)(name=request.name, count=n)
        if request.name == "wait":
            await self._wait()
        if request.a_code:
            await context.abort(grpc.StatusCode.INTERNAL, "in the middle")

    async def _wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def add_reflection(server: Any, version: str, pool: Any) -> None:
    """grpcio has v1alpha only; v1 is the same service and messages under another name."""
    names = (NAME, f"grpc.reflection.{version}.ServerReflection")
    if version == "v1alpha":
        reflection.enable_server_reflection(names, server, pool=pool)
        return
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    made = grpc.method_handlers_generic_handler(names[1], handlers)
    server.add_generic_rpc_handlers((made,))


@asynccontextmanager
async def serving(
    credentials: Any = None, *, versions: Sequence[str] = ("v1alpha",), port: int = 0
) -> AsyncGenerator[Service]:
    """A server; `versions` are those of its reflection service."""
    pool = descriptor_pool.DescriptorPool()
    stamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
    for one in (stamp, file_of()):
        pool.Add(one)  # pyright: ignore[reportDeprecated]
    message: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.v1.Request"))
    made = Service()
    both = {
        "request_deserializer": message.FromString,
        "response_serializer": message.SerializeToString,
    }
    handlers = {
        "Do": grpc.unary_unary_rpc_method_handler(made.do, **both),
        "Watch": grpc.unary_stream_rpc_method_handler(made.watch, **both),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    for version in versions:
        add_reflection(server, version, pool)
    port = (
        server.add_insecure_port(f"127.0.0.1:{port}")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
    await server.start()
    made.address = f"127.0.0.1:{port}"
    try:
        yield made
    finally:
        await server.stop(0)

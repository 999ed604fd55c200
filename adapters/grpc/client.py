"""A call as one RPC, by a channel that is kept."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import grpc
import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from adapters import templates
from adapters.authorization import headers as credential_headers
from adapters.contract import (
    INVALID_ARGUMENTS,
    RESULT_TOO_LARGE,
    RESULT_UNREADABLE,
    TARGET_UNAVAILABLE,
    AdapterCall,
    CallFailedError,
    Known,
    Opening,
    Outcome,
    Report,
    Result,
    target_changed,
)
from adapters.grpc import reflection, statuses
from adapters.grpc.channels import channel_of
from adapters.grpc.descriptors import Method, method
from adapters.progress import Telling

REVIEWED_S: Final = 60.0
"""How long a service's descriptors count that its methods are compared with."""
WORD_MAX: Final = 500
"""Characters of a streamed message that are progress."""


class GrpcTarget:
    """A channel to one service, or many at one address."""

    def __init__(self, opening: Opening) -> None:
        self._opened = opening
        self._target = opening.target
        self._secrets = opening.secrets
        self._channel: grpc.aio.Channel | None = None
        self._opening = asyncio.Lock()
        self._digests = reflection.Digests(kept_s=REVIEWED_S)

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Send the request; a cancelled task cancels the RPC at the service."""
        found = method(call.mapping["descriptors"], call.mapping["method"])
        request = _request(call, found)
        shown = await credential_headers(self._target, self._secrets, call)
        metadata = [*shown.items(), ("idempotency-key", call.idempotency_key)]
        if call.traceparent is not None:
            metadata.append(("traceparent", call.traceparent))
        channel = await self._ready()
        await self._reviewed(call, channel, shown)
        kind = channel.unary_stream if found.streams else channel.unary_unary
        sent: Any = kind(
            found.path,
            request_serializer=found.request.SerializeToString,
            response_deserializer=found.response.FromString,
        )(
            request,
            timeout=call.remaining_s(self._target.limits.timeout_s),
            metadata=metadata,
        )
        try:
            if found.streams:
                async with Telling(report) as telling:
                    return await self._all(call, found, sent, telling)
            return Result(value=_json(await sent, found))
        except grpc.aio.AioRpcError as error:
            raise statuses.error(error, call.mapping.get("statuses", {})) from None
        finally:
            sent.cancel()

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def _reviewed(
        self, call: AdapterCall, channel: grpc.aio.Channel, shown: Mapping[str, str]
    ) -> None:
        """Refuse a method that its server does not describe any more as it was reviewed."""
        expected: str | None = call.mapping.get("digest")
        if expected is None or not self._target.options.get("reflection", False):
            return
        found = await self._digests.of(channel, call.mapping["method"], tuple(shown.items()))
        if found != expected:
            raise target_changed(call.mapping["method"], expected, found)

    async def _all(self, call: AdapterCall, found: Method, sent: Any, telling: Telling) -> Result:
        """Every message: each is progress, and all of them (or the last) are the result."""
        bound, size, count = self._target.limits.result_bytes_max, 0, 0
        last_only = call.mapping.get("stream", "all") == "last"
        kept: list[Any] = []
        async for message in sent:
            count += 1
            value = _json(message, found)
            written = orjson.dumps(value)
            telling.say(count, None, written.decode()[:WORD_MAX])
            size = len(written) if last_only else size + len(written) + 1
            if size > bound or last_only:
                kept.clear()  # and read on: the service is doing the work
            if size <= bound:
                kept.append(value)
        if size > bound:
            words = (
                f"The service did it; its {count} messages have {size} bytes, of at most {bound}."
            )
            raise CallFailedError(Known.DONE, RESULT_TOO_LARGE, words)
        if last_only:
            return Result(value=kept[0] if kept else None)
        return Result(value={"messages": kept})

    async def _ready(self) -> grpc.aio.Channel:
        """A channel with a connection: what fails before that has not been sent."""
        async with self._opening:
            if self._channel is None:
                self._channel = await channel_of(self._opened)
        channel = self._channel
        if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            try:
                async with asyncio.timeout(self._target.limits.connect_s):
                    await _connected(channel)
            except (TimeoutError, ConnectionError):
                words = "The service cannot be reached."
                raise CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, words) from None
        return channel


async def _connected(channel: grpc.aio.Channel) -> None:
    """Wait for a connection; one that failed is not waited for again."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
        if state in FAILED:
            raise ConnectionError


FAILED: Final = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


def _request(call: AdapterCall, found: Method) -> Message:
    try:
        given = (
            templates.json_value(dict(call.mapping["message"]), call.args)
            if "message" in call.mapping
            else dict(call.args)
        )
        return json_format.ParseDict(given, found.request(), descriptor_pool=found.pool)
    except json_format.ParseError as error:
        words = f"The arguments are no {found.request.DESCRIPTOR.full_name}: {error}"
    except (TypeError, ValueError, OverflowError) as error:
        words = f"The arguments are no {found.request.DESCRIPTOR.full_name}: {type(error).__name__}"
    except RecursionError:
        words = "The arguments are nested too deep for a message."
    raise CallFailedError(Known.REFUSED, INVALID_ARGUMENTS, words)


def _json(message: Message, found: Method) -> Any:
    try:
        return json_format.MessageToDict(
            message, always_print_fields_with_no_presence=True, descriptor_pool=found.pool
        )
    except (TypeError, ValueError, json_format.Error) as error:
        words = f"The service did it; its answer has no JSON form: {error}"
        raise CallFailedError(Known.DONE, RESULT_UNREADABLE, words) from None

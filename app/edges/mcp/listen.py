"""`subscriptions/listen`: what a client wants to be told of, for as long as it stays connected.

A change of the tools that this very caller may call, of its tasks and of its commands as
resources. Nothing is replayed: who was away lists, and asks, again.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import anyio
from anyio.abc import ObjectSendStream
from mcp import types
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY

from app.edges.auth.scopes import CALL, need
from app.edges.commands import find
from app.edges.mcp.calls import Context, identity_of
from app.edges.mcp.tasks import Tasks, need_declared
from app.edges.mcp.tool_changes import tools_changed, tools_seen
from app.edges.mcp.words import URI
from app.edges.parts import Parts
from app.edges.streams import TooManyStreamsError
from app.errors import BrokerError
from app.identity import Identity

Told = tuple[str, dict[str, Any]]

WATCHED_MAX: Final = 100
"""Tasks and resources that one stream follows."""


class Listener:
    """Serves the streams of one app process."""

    def __init__(self, broker: Parts, tasks: Tasks) -> None:
        self._broker = broker
        self._tasks = tasks

    async def serve(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Acknowledge what will be told, then tell it until the client goes."""
        who: Identity = identity_of(ctx)
        need(who, CALL)
        wanted = params.notifications
        task_ids: list[str] = (wanted.model_extra or {}).get("taskIds") or []
        if task_ids:
            need_declared(ctx)
        uris = wanted.resource_subscriptions or []
        if len(task_ids) + len(uris) > WATCHED_MAX:
            raise MCPError(types.INVALID_PARAMS, f"A stream follows at most {WATCHED_MAX}.")
        tasks = {one: found for one in task_ids if (found := await self._own(who, one))}
        resources = {
            one: found for one in uris if (found := await self._own(who, one.removeprefix(URI)))
        }
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        honored: dict[str, Any] = {
            "toolsListChanged": wanted.tools_list_changed or None,
            "resourceSubscriptions": list(resources) or None,
            "taskIds": list(tasks) or None,
        }
        honored = {name: value for name, value in honored.items() if value is not None}
        async with self._room(who), anyio.create_task_group() as group:
            send, receive = anyio.create_memory_object_stream[Told](0)
            # The present state is the base of what is a change, so it is read before the ack.
            known = await tools_seen(self._broker, who) if wanted.tools_list_changed else None
            acknowledged = {"notifications": honored, "_meta": meta}
            await self._tell(ctx, "notifications/subscriptions/acknowledged", acknowledged)
            if known is not None:
                group.start_soon(self._tools, who, known, send)
            for command_id in tasks.values():
                group.start_soon(self._task, ctx, who, command_id, send)
            for uri, command_id in resources.items():
                group.start_soon(self._resource, who, uri, command_id, send)
            async for method, body in receive:
                await self._tell(ctx, method, {**body, "_meta": meta})
        return types.SubscriptionsListenResult(_meta=meta)

    @asynccontextmanager
    async def _room(self, who: Identity) -> AsyncGenerator[None]:
        try:
            with self._broker.streams.room(who):
                yield
        except TooManyStreamsError as error:
            message = "Too many streams are open; poll instead."
            raise MCPError(types.INTERNAL_ERROR, message) from error

    async def _own(self, who: Identity, command_id: str) -> UUID | None:
        """The id of a command of the caller's; None for anything else, known or not."""
        try:
            return (await find(self._broker, who, UUID(command_id))).id
        except (ValueError, BrokerError):
            return None

    async def _tools(self, who: Identity, known: str, send: ObjectSendStream[Told]) -> None:
        while True:
            known = await tools_changed(self._broker, who, known)
            await send.send(("notifications/tools/list_changed", {}))

    async def _task(
        self, ctx: Context, who: Identity, command_id: UUID, send: ObjectSendStream[Told]
    ) -> None:
        with self._broker.feed.watch(who.tenant_id, command_id) as watch:
            while True:
                command = await watch.change(self._broker.settings.heartbeat_s)
                if command is not None:
                    task_state = await self._tasks.detailed(ctx, command)
                    await send.send(("notifications/tasks", task_state))
                    if command.final:
                        return

    async def _resource(
        self, who: Identity, uri: str, command_id: UUID, send: ObjectSendStream[Told]
    ) -> None:
        with self._broker.feed.watch(who.tenant_id, command_id) as watch:
            first = True  # the present state is no update
            while True:
                command = await watch.change(self._broker.settings.heartbeat_s)
                if command is not None and not first:
                    await send.send(("notifications/resources/updated", {"uri": uri}))
                if command is not None and command.final:
                    return
                first = first and command is None

    async def _tell(self, ctx: Context, method: str, params: dict[str, Any]) -> None:
        notification = types.Notification[dict[str, Any], str](method=method, params=params)
        await ctx.session.send_notification(notification, related_request_id=ctx.request_id)  # pyright: ignore[reportArgumentType]

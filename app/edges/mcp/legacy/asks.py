"""Asking at the console's page on 2025-11-25: `elicitation/create` on the call's own stream.

No replica keeps a session, so what the client can is in the session's name, which it brings back,
and what was asked is in the request's id, which its answer brings back, to any replica. Neither
gives access to anything: an answer counts for its sender's own commands.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final
from uuid import UUID, uuid4

import anyio
import orjson
from starlette.datastructures import Headers
from starlette.types import Message, Scope, Send

from app.commands.store.commands import Command
from app.edges.auth.scopes import CALL
from app.edges.commands import find
from app.edges.mcp.asking import page
from app.edges.mcp.calls import VERSION_HEADER, Context, identity_of
from app.edges.parts import Parts
from app.errors import BrokerError
from app.identity import Identity
from app.postgres.engine import AWAY

logger = logging.getLogger(__name__)

VERSION: Final = "2025-11-25"
"""The only version whose clients are asked so: those before it have no URL mode."""
OPENS: Final = ".url"
"""The end of the name of a session whose client opens URLs."""
ASKED: Final = "approval:"
OPEN_S: Final = 5.0
"""In which the answer's stream must have begun; it does so at once."""


def session_name(message: Any) -> str:
    """A new session's name, for the message that it was begun with."""
    match message:
        case {
            "method": "initialize",
            "params": {"capabilities": {"elicitation": {"url": dict()}}},
        }:
            return uuid4().hex + OPENS
        case _:
            return uuid4().hex


@dataclass(slots=True)
class Stream:
    """The event stream that answers a POST: more can be said on it before the answer."""

    send: Send
    begun: anyio.Event
    over: bool = False

    async def sent(self, message: Message) -> None:
        """Pass on a part of the answer."""
        await self.send(message)
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self.over = not kind.startswith("text/event-stream")
            self.begun.set()
        elif not message.get("more_body", False):
            self.over = True

    async def say(self, message: Mapping[str, Any]) -> bool:
        """Send a whole message as an event of its own; False where that is too late."""
        with anyio.move_on_after(OPEN_S):
            await self.begun.wait()
        if self.over or not self.begun.is_set():
            return False
        body = b"event: message\r\ndata: " + orjson.dumps(message) + b"\r\n\r\n"
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        return True


@dataclass(frozen=True, slots=True)
class Asks:
    """What is asked on the streams of one app process, and the answers that come to it."""

    broker: Parts

    def streaming(self, scope: Scope, session: str, send: Send) -> Send:
        """Have a request's handlers be able to ask, where its client can be."""
        headers = Headers(scope=scope)
        able = session.endswith(OPENS) and headers.get(VERSION_HEADER) == VERSION
        if not able or self.broker.settings.approvals_url is None:
            return send
        stream = Stream(send, anyio.Event())
        scope[page.ASKS] = stream.say
        return stream.sent

    async def heard(self, who: Identity, message: Any) -> None:
        """Take a client's answer to an offer; consent to look at a page changes nothing.

        An answer to anything else, or about somebody else's command, is none.
        """
        match message:
            case {"id": str(asked), "result": {"action": "decline" | "cancel" as action}} if (
                asked.startswith(ASKED) and CALL in who.scopes
            ):
                pass
            case _:
                return
        try:
            command_id = UUID(asked.removeprefix(ASKED).partition(":")[0])
            command = await find(self.broker, who, command_id)
            if page.offered(command, who):
                await page.answer(self.broker, who, command, page.DECISIONS[action])
        except (ValueError, BrokerError, *AWAY) as error:
            logger.info("an answer to a question was not taken", extra={"reason": str(error)})


async def offer(
    broker: Parts, ctx: Context, command: Command, *, meta: Mapping[str, Any] | None = None
) -> None:
    """Show the person behind a client the page of the approval that a call of theirs waits for."""
    if not offering(ctx, command):
        return
    assert ctx.request is not None, "served over HTTP only"
    tool = await broker.catalog.tool(command.tool, command.method)
    title = command.tool if tool is None else tool.title or tool.name
    shown = page.elicitation(broker.settings, command, title=title, named=True)
    request = shown.model_dump(mode="json", by_alias=True, exclude_none=True)
    if meta is not None:
        request["params"]["_meta"] = dict(meta)
    asked = {"jsonrpc": "2.0", "id": f"{ASKED}{command.id}:{token_hex(4)}"}
    await ctx.request.scope[page.ASKS](asked | request)


def offering(ctx: Context, command: Command) -> bool:
    """Whether a page would be offered now on this request's stream."""
    return page.tells(ctx) and page.offered(command, identity_of(ctx))

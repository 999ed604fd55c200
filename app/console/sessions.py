"""Sessions of the console: a random value in a cookie, its hash in PostgreSQL.

The cookie names its tenant in the clear, so that a session is looked for under the tenant's
row-level security as all else is: a cookie that names another tenant has no row there.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.audit.store import events
from app.config import Settings
from app.console.store import sessions as rows
from app.edges.auth.tokens import TENANT
from app.errors import NotAuthenticatedError
from app.identity import Identity
from app.postgres.engine import tenant_transaction

RANDOM_BYTES: Final = 32
COOKIE_CHARS_MAX: Final = 200
TOUCH_S: Final = 60.0
"""A session's last request is written down as often at the most."""

Method = Literal["openid", "link"]


class LinkUsedError(NotAuthenticatedError):
    """A one-time link that somebody has signed in by before."""


class NoSessionError(Exception):
    """Nobody is signed in; `ended` says that a cookie was shown whose session is over."""

    def __init__(self, *, ended: bool) -> None:
        super().__init__("no session")
        self.ended = ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody who is signed in."""

    value: str  # the cookie's
    who: Identity
    method: Method
    expires_at: datetime

    @property
    def csrf(self) -> str:
        """What each form of this session carries: who has it has seen one of its pages."""
        return hmac.digest(self.value.encode(), b"csrf", "sha256").hex()


def hashed(value: str) -> bytes:
    """What the database has of a cookie or a link."""
    return hashlib.sha256(value.encode()).digest()


class Sessions:
    """The sessions of one deployment."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._life_s = settings.console_session_s
        self._idle_s = settings.console_idle_s
        self.secure = urlsplit(settings.public_url).scheme == "https"
        self.cookie = "__Host-mcpbroker_console" if self.secure else "mcpbroker_console"

    async def begin(self, who: Identity, *, method: Method, link: str | None = None) -> str:
        """Sign somebody in: a new session, whatever cookie there was; returns its cookie's value.

        Raises:
            LinkUsedError: the one-time link was used.
        """
        value = f"{who.tenant_id}.{secrets.token_urlsafe(RANDOM_BYTES)}"
        async with tenant_transaction(self._engine, who.tenant_id) as conn:
            await rows.purge(conn, tenant_id=who.tenant_id)
            taken = await rows.insert(
                conn,
                id_hash=hashed(value),
                tenant_id=who.tenant_id,
                user_id=who.user_id,
                identity=kept(who),
                method=method,
                link_hash=None if link is None else hashed(link),
                life_s=self._life_s,
            )
            if not taken:
                raise LinkUsedError("This link was used. Ask for a new one.")
            await self._audit(conn, who, "console.signed_in", {"method": method})
        return value

    async def find(self, connection: HTTPConnection, *, touch: bool = True) -> Session:
        """Who is signed in by the request's cookie. With `touch` it counts as use.

        Raises:
            NoSessionError: nobody is.
        """
        value = connection.cookies.get(self.cookie, "")
        tenant_id = value.partition(".")[0]
        if not value:
            raise NoSessionError(ended=False)
        if len(value) > COOKIE_CHARS_MAX or not is_tenant(tenant_id):
            raise NoSessionError(ended=True)
        id_hash = hashed(value)
        async with tenant_transaction(self._engine, tenant_id) as conn:
            row = await rows.find(conn, id_hash, idle_s=self._idle_s, touch_s=TOUCH_S)
            if row is not None and row.stale and touch:
                await rows.touch(conn, id_hash)
        if row is None or row.tenant_id != tenant_id:
            raise NoSessionError(ended=True)
        method: Method = "link" if row.method == "link" else "openid"
        return Session(value=value, who=identity_of(row), method=method, expires_at=row.expires_at)

    async def end(self, session: Session) -> None:
        """Sign somebody out, on every replica at once. Said twice is once."""
        async with tenant_transaction(self._engine, session.who.tenant_id) as conn:
            if await rows.end(conn, hashed(session.value)):
                await self._audit(conn, session.who, "console.signed_out", {})

    async def _audit(self, conn: Any, who: Identity, kind: str, body: dict[str, Any]) -> None:
        await events.append(
            conn,
            tenant_id=who.tenant_id,
            kind=kind,
            actor=f"user:{who.user_id}",
            user_id=who.user_id,
            body=body,
        )

    def set_cookie(self, response: Response, value: str) -> None:
        """Give the browser its session; it forgets it when it is closed."""
        response.set_cookie(
            self.cookie, value, path="/", secure=self.secure, httponly=True, samesite="lax"
        )

    def clear_cookie(self, response: Response) -> None:
        """Have the browser forget its session."""
        response.delete_cookie(
            self.cookie, path="/", secure=self.secure, httponly=True, samesite="lax"
        )


def is_tenant(text: str) -> bool:
    """Whether a text has the shape of a tenant's id."""
    try:
        TENANT.validate_python(text, strict=True)
    except ValueError:
        return False
    return True


def kept(who: Identity) -> dict[str, Any]:
    """What a session keeps of an identity beside tenant and user."""
    return {
        "client_id": who.client_id,
        "groups": sorted(who.groups),
        "scopes": sorted(who.scopes),
    }


def identity_of(row: rows.Row) -> Identity:
    """The identity that signed in; a person speaks for nobody else's tools or tenants."""
    said = row.identity
    return Identity(
        tenant_id=row.tenant_id,
        user_id=row.user_id,
        client_id=said["client_id"],
        groups=frozenset(said["groups"]),
        scopes=frozenset(said["scopes"]),
        tenants=frozenset({row.tenant_id}),
        tools=(),
    )

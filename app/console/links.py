"""One-time links of the development stack: whoever holds its issuer's key lets a person in once.

The settings trust that issuer on loopback only, so there are none in production.
"""

import time
from typing import Any, Final

from app.config import Settings
from app.edges.auth.tokens import LoginFailedError, Reason, Verifier, parts
from app.identity import Identity
from app.trust import Issuer

LIFE_S_MAX: Final = 3600
"""Longer than that no link may be good: that it was used is remembered for a day."""


def audience(public_url: str) -> str:
    """What a link's token is for: nothing but signing in here."""
    return f"{public_url.rstrip('/')}/console"


class Links:
    """Judges the token of a link."""

    def __init__(self, settings: Settings, issuer: Issuer) -> None:
        mine = issuer.model_copy(update={"audience": audience(settings.public_url)})
        self._issuer = issuer.issuer
        self._verifier = Verifier(settings.model_copy(update={"issuers": (mine,)}))

    async def identity(self, token: str) -> Identity:
        """Whom the link lets in; whether it was used is the session's to find.

        Raises:
            LoginFailedError: it is no link, is over, or would be good for too long.
        """
        who = await self._verifier.verify(token)
        claims: dict[str, Any] = parts(token)[1]
        if claims["exp"] > time.time() + LIFE_S_MAX:
            raise LoginFailedError(Reason.CLAIMS, issuer=self._issuer, why="good for too long")
        return who

"""The scopes of a token, and what each of them lets its bearer do."""

from typing import Final

from app.errors import ForbiddenError
from app.identity import Identity

CALL: Final = "tools"
RESULTS: Final = "results:write"
OPERATE: Final = "operator"
AUDIT: Final = "auditor"
ADMINISTER: Final = "admin"
SCOPES: Final = (CALL, RESULTS, OPERATE, AUDIT, ADMINISTER)


def need(who: Identity, scope: str) -> None:
    """Check a scope.

    Raises:
        ForbiddenError: the token lacks it.
    """
    if scope not in who.scopes:
        raise ForbiddenError(f"This needs a token with scope {scope!r}.", scope=scope)

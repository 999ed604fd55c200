"""Whether a template is what was reviewed: looked at before a launch, at most once a minute."""

import asyncio
from typing import Final

from adapters.aap.api import Api
from adapters.aap.templates import read
from adapters.contract import (
    TARGET_UNAVAILABLE,
    AdapterCall,
    CallFailedError,
    Known,
    target_changed,
)

KEPT_S: Final = 60.0
NOT_FOUND: Final = 404


class Reviewed:
    """The digests of one controller's templates, kept for a while."""

    def __init__(self, *, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._digests: dict[str, tuple[str | None, float]] = {}
        self._asking = asyncio.Lock()

    async def check(self, api: Api, call: AdapterCall) -> None:
        """Let a call through whose template is what its mapping was made of.

        Raises:
            CallFailedError: it is not, or cannot be read now; nothing was launched.
        """
        reviewed: str | None = call.mapping.get("digest")
        if reviewed is None:
            return
        workflow, number = bool(call.mapping.get("workflow")), int(call.mapping["template"])
        key = f"{workflow}:{number}"
        async with self._asking:
            found, read_at = self._digests.get(key, (None, 0.0))
            now = asyncio.get_running_loop().time()
            # What differs from what is kept may be a newer review.
            if found != reviewed or now - read_at > self._kept_s:
                found = await _digest(api, workflow=workflow, number=number)
                self._digests[key] = found, now
        if found != reviewed:
            kind = "workflow template" if workflow else "template"
            raise target_changed(f"{kind} {number}", reviewed, found)


async def _digest(api: Api, *, workflow: bool, number: int) -> str | None:
    """A template's; None of one that is not there.

    Raises:
        CallFailedError: it cannot be read.
    """
    try:
        return (await read(api, workflow=workflow, number=number)).mapping["digest"]
    except CallFailedError as error:
        if error.known is not Known.REFUSED:
            words = f"The template cannot be read ({error.message}); nothing was launched."
            raise CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, words) from None
        if error.details.get("status") != NOT_FOUND:
            raise
        return None

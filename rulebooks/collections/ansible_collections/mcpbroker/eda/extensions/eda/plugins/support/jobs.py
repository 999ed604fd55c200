"""Jobs of the controller that ansible-rulebook launches on: whose they are, and their end."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger("mcpbroker.eda.control")

JOB_END_S = 60.0
JOB_POLL_S = 0.5
# A controller that is away may be back before the job has done harm; the broker has given up
# by its own clock long before.
PATIENCE_S = 900.0
PAUSE_MAX_S = 30.0
NESTED_MAX = 10
ENDED = frozenset({"successful", "failed", "error", "canceled"})


@dataclass(frozen=True)
class Found:
    """A job or workflow job: its address below the API, and what the controller says of it."""

    path: str
    said: dict[str, Any]

    @property
    def ended(self) -> bool:
        return self.said["status"] in ENDED

    def is_of(self, correlation_id: str) -> bool:
        """A claim's name is its adapter's word: no other command's job is cancelled for it."""
        return correlation_id in str(self.said.get("extra_vars"))


async def cancel_job(
    api: Any,
    job: str,
    correlation_id: str,
    *,
    patience_s: float = PATIENCE_S,
    pause_s: float = 0.5,
) -> bool:
    """Cancel a job, or the workflow that it is of; False where it is not this command's, or ended.

    Again while the controller is away or the job goes on, so long as `patience_s`.

    Raises:
        Api.Away: it still was, or did, at the end.
        Api.Refused: the controller refuses.
    """
    until = time.monotonic() + patience_s
    asked = False
    while True:
        try:
            found = await _get(api, f"jobs/{job}/")
            if not found.is_of(correlation_id):
                return False
            top = await _top(api, found, correlation_id)
            if top.ended:
                return asked
            # 202, or 405 where there is nothing to cancel (AWX's API v2).
            await api.post(f"{top.path}cancel/", fine=(200, 202, 405))
            asked = True
            if await _ends(api, top):
                return True
            raise api.Away(f"it has not ended in {JOB_END_S:g} s")
        except api.Away as error:
            if time.monotonic() + pause_s > until:
                raise
            logger.warning("job %s is not cancelled yet: %s", job, error)
        await asyncio.sleep(pause_s)
        pause_s = min(PAUSE_MAX_S, pause_s * 2)


async def _ends(api: Any, top: Found) -> bool:
    until = time.monotonic() + JOB_END_S
    while time.monotonic() < until:
        if (await _get(api, top.path)).ended:
            return True
        await asyncio.sleep(JOB_POLL_S)
    return False


async def _top(api: Any, found: Found, correlation_id: str) -> Found:
    """The workflow that was launched for the command, if the job is a node of one; else itself."""
    for _ in range(NESTED_MAX):
        url = (found.said.get("related") or {}).get("source_workflow_job")
        if not url:
            break
        workflow = await _get(api, f"workflow_jobs/{url.rstrip('/').rpartition('/')[2]}/")
        if not workflow.is_of(correlation_id):
            break
        found = workflow
    return found


async def _get(api: Any, path: str) -> Found:
    return Found(path, await api.get(path))

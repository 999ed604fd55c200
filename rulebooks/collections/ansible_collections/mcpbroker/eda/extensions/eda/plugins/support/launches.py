"""Launches of ansible-rulebook's own actions: what came of each, for the command that it is of.

run_job_template and run_workflow_template log a launch that fails, and no rule hears of it. So
this stands between them and the controller, in their process: it tells the broker why a launch
failed, and hands what was launched to whoever follows it (following.py). Another release's
ansible-rulebook that lacks what is stood in front of launches as ever.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from ansible_rulebook.exception import ControllerApiException

logger = logging.getLogger("mcpbroker.eda.control")

# The later releases launch by a function of its own, and then wait for the job.
LAUNCHING = ("launch_job_template", "launch_workflow_job_template")
RUNNING = ("run_job_template", "run_workflow_job_template")
TRIES = 4
PAUSE_S = 1.0
AGAIN_AFTER_S = 30.0
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
WORDS_MAX = 2000
# What the broker takes in no text.
UNTOLD = re.compile("[\x00\ud800-\udfff]")


class LaunchError(ControllerApiException):
    """The controller did not launch, as ansible-rulebook takes it."""

    def __init__(self, message: str, *, away: bool) -> None:
        super().__init__(message)
        self.away = away


class Launches:
    """Stands in front of a JobTemplateRunner's launches until `leave`."""

    def __init__(self, controller: Any, api: Any, follower: Any, broker: Any) -> None:
        self._controller = controller
        self._api = api
        self._follower = follower
        self._broker = broker
        self._launched: set[int] = set()  # of launches under way: the parameters' identities
        self._before: dict[str, Any] = {}

    def watch(self) -> None:
        """Begin."""
        names = LAUNCHING if hasattr(self._controller, LAUNCHING[0]) else RUNNING
        if not all(hasattr(self._controller, name) for name in (*names, "_launch")):
            logger.warning("this ansible-rulebook launches in another way: failures are not told")
            return
        for name in names:
            self._stand_before(name, self._told(getattr(self._controller, name), name))
        self._stand_before("_launch", self._launch(self._controller._launch))

    def leave(self) -> None:
        """End: the controller's own functions are what they were."""
        for name in self._before:
            delattr(self._controller, name)
        self._before = {}

    def _stand_before(self, name: str, mine: Any) -> None:
        self._before[name] = getattr(self._controller, name)
        setattr(self._controller, name, mine)

    def _told(self, launch: Callable[..., Awaitable[Any]], name: str) -> Any:
        async def told(template: str, organization: str, params: dict[str, Any], *rest: Any) -> Any:
            command = command_of(params)
            if command is None:
                return await launch(template, organization, params, *rest)
            known = self._follower.waiting(*command)
            if known is not None:
                # The broker sends again what nobody has claimed; its job waits its turn.
                logger.info("command %s has its job already: %s", command[0], known)
                if name in LAUNCHING:
                    return known
                return await self._controller._monitor_job(known)
            try:
                return await launch(template, organization, params, *rest)
            except Exception as error:
                if id(params) not in self._launched:
                    await self._failed(command, f"{template} of {organization}", error)
                raise
            finally:
                self._launched.discard(id(params))

        return told

    def _launch(self, launch: Callable[..., Awaitable[Any]]) -> Any:
        async def launched(params: dict[str, Any], url: str) -> Any:
            command = command_of(params)
            if command is None:
                return await launch(params, url)
            job = await self._posted(params, url)
            self._launched.add(id(params))
            if "mcp_command" in str((job.get("ignored_fields") or {}).get("extra_vars")):
                await self._dropped(command, job)
            else:
                self._follower.follow(job, *command)
            return job

        return launched

    async def _posted(self, params: dict[str, Any], url: str) -> dict[str, Any]:
        """As _launch, whose exception leaves out what the controller says is wrong."""
        pause_s = PAUSE_S
        for n in range(TRIES):
            try:
                return await self._api.post(url, params, fine=(200, 201))
            except self._api.Refused as error:
                raise LaunchError(str(error), away=False) from None
            except self._api.Away as error:
                if n == TRIES - 1:
                    raise LaunchError(str(error), away=True) from None
            await asyncio.sleep(pause_s)
            pause_s *= 2
        raise AssertionError

    async def _failed(self, command: tuple[str, int], template: str, error: Exception) -> None:
        away = is_away(error)
        message = UNTOLD.sub("", f"The controller did not launch {template}: {error}")
        logger.warning("command %s: %s", command[0], message)
        told = {"code": "launch_failed", "message": message[:WORDS_MAX], "retryable": away}
        word: dict[str, Any] = {"run": "launch", "status": "failed", "error": told}
        if away:
            word["again_after_s"] = AGAIN_AFTER_S
        await self._broker.run(*command, word)

    async def _dropped(self, command: tuple[str, int], job: dict[str, Any]) -> None:
        """A template that takes no variables: its job cannot know what it is for."""
        name = job.get("name") or job.get("job_template")
        message = (
            f"The template {name} takes no variables at launch: set 'Prompt on launch' of its"
            " Variables (ask_variables_on_launch)."
        )
        logger.warning("command %s: %s", command[0], message)
        told = {"code": "launch_failed", "message": message, "retryable": False}
        word = {"run": f"job:{job['id']}", "status": "canceled", "link": self._api.link(job)}
        await self._broker.run(*command, word | {"error": told})
        kind = "workflow_jobs" if job.get("type") == "workflow_job" else "jobs"
        try:
            await self._api.post(f"{kind}/{job['id']}/cancel/", fine=(200, 202, 405))
        except RuntimeError as error:
            logger.warning("job %s is not cancelled: %s", job["id"], error)


def command_of(params: dict[str, Any]) -> tuple[str, int] | None:
    """The command and the attempt that a launch, or a job, is of."""
    variables = params.get("extra_vars")
    if isinstance(variables, str):
        try:
            variables = json.loads(variables or "{}")
        except ValueError:
            return None
    command = variables.get("mcp_command") if isinstance(variables, dict) else None
    if not isinstance(command, dict) or not isinstance(command.get("correlation_id"), str):
        return None
    try:
        return command["correlation_id"], int(command.get("attempt") or 1)
    except (TypeError, ValueError):
        return None


def is_away(error: BaseException | None) -> bool:
    """Whether another try may help: ansible-rulebook's exceptions have it as what came before."""
    while error is not None:
        if getattr(error, "away", False) or getattr(error, "status", None) in TRANSIENT:
            return True
        if isinstance(error, (asyncio.TimeoutError, ConnectionError)) or hasattr(error, "os_error"):
            return True
        error = error.__cause__ or error.__context__
    return False

"""A call as one job of the controller's: launched, followed, and ended with the call."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from adapters.aap.api import Api, wire_of
from adapters.aap.jobs import Job
from adapters.aap.labels import Labels
from adapters.aap.reviewed import Reviewed
from adapters.contract import (
    CANCELLED,
    MISCONFIGURED,
    AdapterCall,
    CallFailedError,
    Known,
    Opening,
    Outcome,
    Report,
)
from adapters.http.sending import Wire

logger = logging.getLogger(__name__)

CANCEL_S: Final = 10.0
PATIENCE_S: Final = 900.0
"""For how long the end of a job is asked for while the controller is away."""
STORED: Final = "$encrypted$"
"""At a launch, the password that a survey has stored for its question."""


class ControllerTarget:
    """Connections to one controller, kept between calls."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._wire: Wire | None = None
        self._connecting = asyncio.Lock()
        self._labels = Labels()
        self._reviewed = Reviewed()
        self._ending = set[asyncio.Task[tuple[Job | None, CallFailedError | None]]]()

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Launch the template, and follow its job to the end."""
        async with self._connecting:
            if self._wire is None:
                self._wire = await wire_of(self._opening)
        api = Api(self._opening, self._wire, call)
        kind = "workflow_job_templates" if call.mapping.get("workflow") else "job_templates"
        template = f"{kind}/{call.mapping['template']}/"
        await self._reviewed.check(api, call)
        wanted = launch_of(call.mapping, call.args)
        body = _traced(wanted, call.traceparent)
        body |= await self._labelled(api, template, call, report)
        launching = asyncio.create_task(api.post(f"{template}launch/", body))
        try:
            said = await asyncio.shield(launching)
            _refuse_dropped(said, wanted)
            return await Job(api, said).follow(report)
        except asyncio.CancelledError:
            return await self._stopped(api, launching)
        except CallFailedError as error:
            if error.code == MISCONFIGURED:
                with suppress(CallFailedError):
                    await self._stopped(api, launching)
            raise

    async def _stopped(self, api: Api, launching: asyncio.Task[dict[str, Any]]) -> Outcome:
        """What a call comes to that is to end: its job is ended, also where it is on its way yet.

        The job may be done at the last moment. While the controller is away it is asked again, for
        longer than the call can wait.

        Raises:
            CallFailedError: it is cancelled, has failed, or nobody knows.
        """
        ending = asyncio.create_task(_ended(api, launching))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.wait((ending,), timeout=CANCEL_S)
        if not ending.done():
            words = "The controller has not told yet that its job has ended; it is asked again."
            if launching.done():
                words = f"{words} {Job(api, launching.result()).link}"
            raise CallFailedError(Known.UNKNOWN, CANCELLED, words)
        job, error = ending.result()
        if job is None:
            assert error is not None
            raise error
        if error is not None:
            words = f"{job.name} could not be cancelled ({error.message}): {job.link}"
            raise CallFailedError(Known.UNKNOWN, CANCELLED, words)
        if job.status == "canceled":
            words = f"{job.name} was cancelled at the controller: {job.link}"
            raise CallFailedError(Known.REFUSED, CANCELLED, words)
        return await job.outcome()

    async def _labelled(
        self, api: Api, template: str, call: AdapterCall, report: Report
    ) -> dict[str, list[int]]:
        """The launch's labels; a job without them does the same work."""
        names: Sequence[str] = call.mapping.get("labels", ())
        if not names:
            return {}
        try:
            return {"labels": await self._labels.ids(api, template, names, call.command_id)}
        except CallFailedError as error:
            await report.progress(None, None, f"Its job has no labels: {error.message}")
            return {}

    async def close(self) -> None:
        """Close the connections."""
        for ending in self._ending:
            ending.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._wire is not None:
            await self._wire.close()


def launch_of(mapping: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The launch's body: arguments are extra variables, but for those that are prompts' values."""
    prompts: Mapping[str, str] = mapping.get("prompts", {})
    given = {field: args[name] for field, name in prompts.items() if args.get(name) is not None}
    named = set(prompts.values())
    variables = {name: one for name, one in args.items() if name not in named and one is not None}
    variables = dict.fromkeys(mapping.get("stored", ()), STORED) | variables
    return given | ({"extra_vars": variables} if variables else {})


def _traced(body: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
    """With the variable by which a job goes on with the call's trace; an argument of its name wins.

    A template that takes no variables drops it, and does the same work.
    """
    if traceparent is None:
        return dict(body)
    given = {"TRACEPARENT": traceparent} | body.get("extra_vars", {})
    return {**body, "extra_vars": given}


async def _ended(
    api: Api, launching: asyncio.Task[dict[str, Any]]
) -> tuple[Job | None, CallFailedError | None]:
    """Have a job ended, for as long as the controller is away; no job where none was launched."""
    try:
        job = Job(api, await launching)
    except CallFailedError as error:
        return None, error
    try:
        async with asyncio.timeout(PATIENCE_S):
            await job.end()
    except CallFailedError as error:
        return job, error
    except TimeoutError:
        logger.error("%s is not ended: its controller is away", job.name)  # noqa: TRY400
        error = CallFailedError(Known.UNKNOWN, CANCELLED, "the controller is away")
        return job, error
    return job, None


def _refuse_dropped(said: Mapping[str, Any], body: Mapping[str, Any]) -> None:
    """AWX answers 201 and drops what the template does not ask for: other work than was wanted."""
    ignored: Mapping[str, Any] = said.get("ignored_fields") or {}
    dropped = [name for name in ignored if name in body and name != "extra_vars"]
    variables = ignored.get("extra_vars")
    if isinstance(variables, Mapping):
        dropped += [name for name in variables if name in body.get("extra_vars", {})]
    if dropped:
        words = (
            f"The template takes no {', '.join(sorted(dropped))} at launch ('Prompt on launch', or"
            " its survey); its job is cancelled."
        )
        raise CallFailedError(Known.REFUSED, MISCONFIGURED, words)

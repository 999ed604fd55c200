"""A call as one job of the controller's: launched, followed, and ended with the call."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from adapters.aap.api import Api, wire_of
from adapters.aap.jobs import Job
from adapters.aap.labels import Labels
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

CANCEL_S: Final = 10.0


class ControllerTarget:
    """Connections to one controller, kept between calls."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._wire: Wire | None = None
        self._connecting = asyncio.Lock()
        self._labels = Labels()

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Launch the template, and follow its job to the end."""
        async with self._connecting:
            if self._wire is None:
                self._wire = await wire_of(self._opening)
        api = Api(self._opening, self._wire, call)
        kind = "workflow_job_templates" if call.mapping.get("workflow") else "job_templates"
        template = f"{kind}/{call.mapping['template']}/"
        wanted = launch_of(call.mapping, call.args)
        body = _traced(wanted, call.traceparent)
        body |= await self._labelled(api, template, call, report)
        launching = asyncio.create_task(api.post(f"{template}launch/", body))
        try:
            said = await asyncio.shield(launching)
        except asyncio.CancelledError:
            # It may be on its way: what has begun is ended, not left behind.
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_S):
                    await _ended(Job(api, await launching))
            raise
        job = Job(api, said)
        try:
            _refuse_dropped(said, wanted)
            return await job.follow(report)
        except asyncio.CancelledError:
            await _ended(job)
            words = f"{job.name} was cancelled at the controller: {job.link}"
            raise CallFailedError(Known.REFUSED, CANCELLED, words) from None
        except CallFailedError as error:
            if error.code == MISCONFIGURED:
                await _ended(job)
            raise

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
        if self._wire is not None:
            await self._wire.close()


def launch_of(mapping: Mapping[str, Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """The launch's body: arguments are extra variables, but for those that are prompts' values."""
    prompts: Mapping[str, str] = mapping.get("prompts", {})
    given = {field: args[name] for field, name in prompts.items() if args.get(name) is not None}
    named = set(prompts.values())
    variables = {name: one for name, one in args.items() if name not in named and one is not None}
    return given | ({"extra_vars": variables} if variables else {})


def _traced(body: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
    """With the variable by which a job goes on with the call's trace; an argument of its name wins.

    A template that takes no variables drops it, and does the same work.
    """
    if traceparent is None:
        return dict(body)
    given = {"TRACEPARENT": traceparent} | body.get("extra_vars", {})
    return {**body, "extra_vars": given}


async def _ended(job: Job) -> None:
    """Have a job ended, as far as the controller hears of it in time."""
    try:
        async with asyncio.timeout(CANCEL_S):
            await job.cancel()
    except (CallFailedError, TimeoutError):
        return


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

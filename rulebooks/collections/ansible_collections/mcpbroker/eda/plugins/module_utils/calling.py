"""One attempt at a call, by a kind of the broker's library `adapters`, in ansible's own process.

What `broker-worker` does for many calls at once, for one: the same library, the same words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading

import orjson
from adapters import claims
from adapters.contract import AdapterCall, Failure, Outcome
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters
from adapters.vault_server import VaultServer
from ansible.errors import AnsibleActionFail
from ansible_collections.mcpbroker.eda.plugins.module_utils import results
from ansible_collections.mcpbroker.eda.plugins.module_utils.results import Command
from worker.spans import asking

BEAT_MAX_S = 10.0
BEAT_MIN_S = 0.2
PROGRESS_EVERY_S = 0.5
PARENT_S = 0.5
STOPPED_WORD_S = 20.0
"""How long a stopped play says its last word."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Words(threading.Thread):
    """Says progress, which renews the lease, and hears in the answers that the call is to end.

    A thread, as the worker has: an adapter that holds up the event loop costs no lease.
    """

    def __init__(self, command: Command, lease_s: float, heard) -> None:
        super().__init__(name="words", daemon=True)
        self._command = command
        self._beat_s = max(BEAT_MIN_S, min(BEAT_MAX_S, lease_s / 3))
        self._heard = heard
        self._newest = dict(claims.BARE)
        self._wake = threading.Event()
        self._over = threading.Event()
        self._asked = False
        self._unsaid = False

    def say(self, fields: dict) -> None:
        """Say how far it is; what a newer word overtakes is not said, the last one is."""
        self._newest, self._unsaid = fields, True
        self._wake.set()

    def ask(self) -> None:
        """This process is to end: ask whether the call is, or is to be given back."""
        self._asked = True
        self._wake.set()

    def stop(self) -> None:
        """No more progress: the outcome is next, and nothing may come after it."""
        self._over.set()
        self._wake.set()
        self.join()

    def run(self) -> None:
        """Until it is stopped."""
        while True:
            self._wake.wait(self._beat_s)
            self._wake.clear()
            over = self._over.is_set()
            if over and not self._unsaid:
                return
            asked = self._asked
            heard = self._said()
            if over:
                return
            if heard or asked:
                self._heard(heard or "stopped")
            self._over.wait(PROGRESS_EVERY_S)

    def _said(self) -> str | None:
        self._unsaid = False
        body = self._newest | {"attempt": self._command.attempt}
        try:
            status, answer = results.post(
                self._command, "/progress", body, patience_s=results.PROGRESS_S
            )
        except AnsibleActionFail:  # the app is away: the claim's fence decides later
            return None
        if status in claims.NOT_KEPT:  # a target's words cost no lease
            self._newest = dict(claims.BARE)
            self._wake.set()
        if status in claims.OVER:
            return "lost"
        return "cancelled" if answer.get("cancel_requested") else None


class Run:
    """The report that the adapter is given, and why it was told to end."""

    def __init__(self, command: Command, name: str) -> None:
        self._command = command
        self._name = name
        self.words: Words | None = None
        self.why: str | None = None
        self._wish = asyncio.Event()

    @property
    def cancel_requested(self) -> bool:
        """Whether it is to end."""
        return self._wish.is_set()

    async def until_cancelled(self) -> None:
        """Return once it is to end."""
        await self._wish.wait()

    async def progress(self, done=None, total=None, message=None) -> None:
        """Say how far it is."""
        self.words.say(claims.progress(done, total, message))

    async def tell_run(self, name, status, link) -> None:
        """Tell of a run elsewhere that does the work; once, as it is for people."""
        body = claims.run_elsewhere(name, status, link, mine=self._name)
        body["attempt"] = self._command.attempt
        with contextlib.suppress(AnsibleActionFail):  # the app is away
            await asyncio.to_thread(
                results.post, self._command, "/run", body, patience_s=results.PROGRESS_S
            )

    def end(self, why: str) -> None:
        """It is to end; the first reason counts, but that a lost attempt says nothing."""
        if self.why is None or why == "lost":
            self.why = why
        self._wish.set()


def work(
    granted: dict, command: Command, vault: dict | None, *, run: str, late: bool
) -> Outcome | None:
    """Do a granted attempt's work; None where it is not ours any more. `run` is its claim's name.

    SIGTERM ends the work as it does at the worker, and so does the end of the play.
    """
    try:
        return asyncio.run(_outcome(granted, command, vault, name=run, late=late))
    finally:
        for name in SIGNALS:  # the last word is next, and then this task's process ends
            signal.signal(name, signal.SIG_IGN)


async def _outcome(
    granted: dict, command: Command, vault: dict | None, *, name: str, late: bool
) -> Outcome | None:
    call = claims.too_late() if late else claims.call_of(granted)
    if isinstance(call, Failure):
        return call
    loop = asyncio.get_running_loop()
    run = Run(command, name)

    def heard(what: str) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(run.end, what)

    words = run.words = Words(command, granted["lease_s"], heard)
    for name in SIGNALS:
        loop.add_signal_handler(name, words.ask)
    adapters = Adapters(
        credentials=CredentialSources(vault=None if vault is None else VaultServer(**vault))
    )
    words.start()
    watching = asyncio.ensure_future(_ask_when_alone(words))
    try:
        outcome = await _asked(adapters, call, run, command)
    finally:
        watching.cancel()
        await asyncio.to_thread(words.stop)
        await adapters.close()
    return _ended(call, outcome, run.why)


async def _asked(adapters: Adapters, call: AdapterCall, run: Run, command: Command) -> Outcome:
    """What the adapter comes to, within a span as the worker has it, where the call is traced."""
    tracing = None if command.asked is None else command.asked.tracing()
    if tracing is None:
        return await adapters.run(call, run)
    with asking(tracing, call) as span:
        outcome = span.outcome = await adapters.run(span.call, run)
    return outcome


def _ended(call: AdapterCall, outcome: Outcome, why: str | None) -> Outcome | None:
    match why:
        case "lost":
            return None
        case "stopped":
            return claims.drained(call, outcome, "play")
        case _:
            return outcome


async def _ask_when_alone(words: Words) -> None:
    """The play that started this task may be killed."""
    play = os.getppid()
    while os.getppid() == play:
        await asyncio.sleep(PARENT_S)
    words.ask()


def report(command: Command, outcome: Outcome) -> tuple[int, dict]:
    """Say what came of it: status and answer."""
    about = {"attempt": command.attempt}
    stopped = isinstance(outcome, Failure) and outcome.code == claims.DRAINED
    patience_s = STOPPED_WORD_S if stopped else results.LAST_WORD_S
    written = orjson.dumps(about | claims.spoken(outcome))
    status, why = 413, f"it has {len(written)} bytes"
    if len(written) <= results.result_bytes_max():
        # As the worker says it: what orjson writes for numbers that JSON has not is null.
        body = json.loads(written)
        status, answer = results.post(command, "", body, patience_s=patience_s)
        why = str(answer.get("detail"))
    if status in claims.NOT_KEPT:
        body = about | claims.without(outcome, why)
        status, answer = results.post(command, "", body, patience_s=patience_s)
    return status, answer


def named(outcome: Outcome) -> str:
    """How it ended, in a word."""
    if isinstance(outcome, Failure):
        return "unknown" if outcome.outcome_unknown else "failed"
    return "done"

"""watchdog.py: ends a process whose rules answer no more, so that its supervisor starts it again.

ansible-rulebook does not notice when the task that feeds its rules has ended: its sources wait for
ever, it looks alive, and nothing runs. This source sends a probe through the very rules, about once
a minute, and looks for the fact that the rules for it set: no playbook, a few milliseconds.

    - name: watchdog
      condition: event.mcp_probe is defined
      action:
        set_fact:
          fact: {mcp_alive: "{{ event.mcp_probe }}"}
    - name: watchdog_answer   # the engine keeps no fact that no rule takes
      condition: event.mcp_alive is defined
      action: {none: }

An engine that is full of actions is busy, not ill: that time does not count, and an
ansible-rulebook that would end after an hour of it (--max-back-pressure-timeout, which nobody can
give an activation) waits for as long as its actions run. An event loop that is held up by one thing
is seen by a thread of faulthandler's, which shows where it is held up.
"""

import asyncio
import faulthandler
import logging
import os
import uuid
from typing import Any

from ansible_rulebook.conf import settings
from drools import ruleset as rules

DOCUMENTATION = """
short_description: End a process whose rules answer no more
description:
  - Sends a probe through the rules from time to time, and looks for the fact that they set.
author: The MCP broker authors (@mcpbroker)
options:
  ruleset: {description: "The ruleset that this source stands in.", default: mcp_commands}
  every_s: {description: "Between an answer and the next probe.", default: 60}
  answer_s: {description: "How long an engine that is not full may take for it.", default: 60}
  blocked_s: {description: "How long the event loop may be held up.", default: 120}
"""

logger = logging.getLogger("mcpbroker.eda.watchdog")

POLL_S = 0.25
# Adapters may run for days. Not for ever: the releases count with it.
BACK_PRESSURE_S = 365 * 24 * 3600
TASKS = ("source_reader_task", "action_plan_task")
"""What ansible-rulebook calls the tasks of a ruleset: events to rules, rules to actions."""


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Send probes until cancelled; ends the process when one is not answered."""
    ruleset = args.get("ruleset") or "mcp_commands"
    every_s, answer_s, blocked_s = (
        float(args.get(name) or default)
        for name, default in (("every_s", 60), ("answer_s", 60), ("blocked_s", 120))
    )
    if hasattr(settings, "max_back_pressure_timeout"):
        settings.max_back_pressure_timeout = BACK_PRESSURE_S
    try:
        while True:
            await _wait(every_s, blocked_s)
            if not await _answered(queue, ruleset, answer_s, blocked_s):
                _end(ruleset, answer_s)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _wait(seconds: float, blocked_s: float) -> None:
    """Sleep, and show meanwhile that the event loop goes on."""
    # In steps, so that a process which was frozen is not taken for one that does not answer.
    for _ in range(max(1, round(seconds / POLL_S))):
        faulthandler.dump_traceback_later(blocked_s, exit=True)
        await asyncio.sleep(POLL_S)


async def _answered(
    queue: asyncio.Queue[Any], ruleset: str, answer_s: float, blocked_s: float
) -> bool:
    probe = str(uuid.uuid4())
    putting = asyncio.create_task(queue.put({"mcp_probe": probe}))
    waited_s = 0.0
    try:
        while waited_s < answer_s:
            await _wait(POLL_S, blocked_s)
            if any(fact.get("mcp_alive") == probe for fact in rules.get_facts(ruleset)):
                rules.retract_matching_facts(ruleset, {"mcp_alive": probe}, True, [])
                return True
            waited_s += 0 if _is_full() else POLL_S
    finally:
        putting.cancel()
    return False


def _is_full() -> bool:
    """Whether as many actions run as may, which holds events back; older engines know no such."""
    running = getattr(settings, "max_actions_semaphore", None)
    return running is not None and running.locked()


def _end(ruleset: str, answer_s: float) -> None:
    alive = [task.get_name().partition("::")[0].strip() for task in asyncio.all_tasks()]
    ended = " and ".join(name for name in TASKS if name not in alive)
    logger.critical(
        "The rules of %s have not answered a probe for %s s (%s): this process ends now, for its"
        " supervisor to start it again. What it had not claimed is sent again by the broker.",
        ruleset,
        answer_s,
        f"its {ended} has ended" if ended else "its tasks are there, and wait",
    )
    logging.shutdown()
    # An exception, or a signal, would end in a shutdown by way of the queue that nobody reads.
    os._exit(1)

"""Tells a playbook's run, and its tasks, as spans of the trace of the command that began it."""

from __future__ import annotations

import os
from time import time_ns

from ansible.plugins.callback import CallbackBase
from ansible_collections.mcpbroker.eda.plugins.module_utils.asked import VARIABLES

DOCUMENTATION = """
name: traces
type: aggregate
short_description: A playbook's run as spans of OpenTelemetry
description:
  - Where OpenTelemetry's variables ask for traces, and the run is of one (the traceparent of the
    event, else the variable TRACEPARENT, else that of the environment), the rule's, the playbook's
    and each task's span are sent as the playbook ends.
  - They tell names as they stand in the playbook, and how each task ended; no values.
  - What M(mcpbroker.eda.call) asks the broker, and its target, is told below its task by the action
    itself.
author: The MCP broker authors (@mcpbroker)
requirements:
  - To be enabled, by callbacks_enabled or ANSIBLE_CALLBACKS_ENABLED.
  - The broker's Python package with the extra otel, in Ansible's Python. Without it nothing is
    sent, and a warning says so.
"""


class CallbackModule(CallbackBase):
    """Takes down what begins and ends; the broker's package makes spans of it at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "mcpbroker.eda.traces"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Read once, and nothing is imported: a run that nobody traces costs this.
        self.disabled = not any(os.environ.get(name) for name in VARIABLES)
        self._run = {"began_ns": time_ns(), "playbook": "", "variables": {}, "tasks": {}}

    def v2_playbook_on_start(self, playbook):
        """Keep its file's name."""
        self._run["playbook"] = os.path.basename(playbook._file_name)

    def v2_playbook_on_play_start(self, play):
        """Keep the extra variables: they say what the run is of."""
        self._run["variables"] = dict(play.get_variable_manager().extra_vars)

    def v2_playbook_on_task_start(self, task, is_conditional):
        """A task begins."""
        self._begin(task)

    def v2_playbook_on_handler_task_start(self, task):
        """A handler begins."""
        self._begin(task)

    def v2_runner_on_ok(self, result):
        """A host has done it."""
        self._end(result, "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """A host has failed at it."""
        self._end(result, "ok" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result):
        """A host was not there."""
        self._end(result, "unreachable")

    def v2_runner_on_skipped(self, result):
        """A host had no need of it."""
        self._end(result, "skipped")

    def v2_playbook_on_stats(self, stats):
        """It is over: send what was taken down."""
        self._run["ended_ns"] = time_ns()
        self._run["failed"] = bool(stats.failures or stats.dark)
        try:
            from app.traces import playbooks
        except ImportError as error:
            words = "Its spans are not sent: Ansible's Python has not the broker's package"
            self._display.warning(f"{words}: {error}")
            return
        playbooks.send(self._run)

    def _begin(self, task):
        # As it stands in the file: a template in it may have shown an argument.
        named = (task.get_ds() or {}).get("name")
        self._run["tasks"][task._uuid] = {
            "name": str(named or ""),
            "action": str(task.action),
            "began_ns": time_ns(),
            "ended_ns": time_ns(),
            "outcomes": [],
        }

    def _end(self, result, outcome):
        task = self._run["tasks"].get(result._task._uuid)
        if task is not None:
            task["ended_ns"] = time_ns()
            task["outcomes"].append(outcome)

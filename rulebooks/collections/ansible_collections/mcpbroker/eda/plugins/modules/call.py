"""Documentation of the action mcpbroker.eda.call; an action plugin of the name does it."""
# Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: call
short_description: Do a command's work by a kind of adapter
description:
  - Claims the command, does its work at the target as the broker's catalog says, and reports.
  - The same kinds, retry rule, credentials and cancel as at the broker's worker.
author: The MCP broker authors (@mcpbroker)
options:
  vault:
    description:
      - Where references vault are looked up, as the broker's setting worker_vault, an object or its
        JSON. Else the environment's E(MCP_BROKER_WORKER_VAULT).
    type: raw
  fail_job:
    description:
      - Whether the task fails where the call has failed, once that is reported, so that a failed
        command's job is a failed job. By default on a controller.
    type: bool
extends_documentation_fragment: [mcpbroker.eda.broker]
notes:
  - Needs the broker's Python package in Ansible's own Python, with the extras of the kinds used.
  - Where OpenTelemetry's variables ask for traces and the call is of one, what it asks the broker
    and its target is sent as spans, once it has reported. The callback
    P(mcpbroker.eda.traces#callback) tells the task that they are below.
"""

EXAMPLES = r"""
- name: Do the work of any kind
  mcpbroker.eda.call:
"""

RETURN = r"""
proceed:
  description: Whether the claim was granted.
  returned: always
  type: bool
reason:
  description: Why it was not.
  returned: when it was not
  type: str
outcome:
  description: How it ended. It is V(unknown) where nobody knows, V(lost) where it is another run's.
  returned: when the claim was granted
  type: str
code:
  description: The error's code. The command has the rest.
  returned: when the call has failed
  type: str
state:
  description: The command's.
  returned: when an outcome was reported
  type: str
"""

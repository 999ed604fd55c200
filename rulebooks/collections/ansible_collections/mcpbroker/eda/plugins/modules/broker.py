"""Documentation of the action mcpbroker.eda.broker; an action plugin of the name does it."""
# Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: broker
short_description: Speak to the MCP broker's results API
description:
  - Claims a command's attempt, says progress, and reports its result or error.
  - It runs in Ansible's own process, so that a word costs milliseconds.
author: The MCP broker authors (@mcpbroker)
options:
  op:
    description: What to say.
    type: str
    choices: [claim, progress, result, error, reject]
    required: true
  run:
    description: Of a claim, names this run. Made once a run by default.
    type: str
  stage:
    description: Of progress, what is being done.
    type: str
  percent:
    description: Of progress, how far it is.
    type: float
  message:
    description: Of progress, error and reject, words for people.
    type: str
  retryable:
    description: Of an error, false where another try cannot help.
    type: bool
    default: true
  result:
    description: Of a result, what the caller gets.
    type: raw
  fail_job:
    description:
      - Of an error, whether the task fails once it has reported, so that a failed command's job is
        a failed job. By default on a controller, whose notifications tell failures by that.
    type: bool
extends_documentation_fragment: [mcpbroker.eda.broker]
"""

EXAMPLES = r"""
- name: Claim the attempt
  mcpbroker.eda.broker:
    op: claim
  register: claimed
  no_log: true  # its answer holds the arguments

- name: Report the result
  mcpbroker.eda.broker:
    op: result
    result: {done: true}
  when: claimed.proceed
"""

RETURN = r"""
proceed:
  description: Of a claim, whether to go on.
  returned: claim
  type: bool
args:
  description: Of a claim, the command's arguments, as data that is never templated.
  returned: claim
  type: dict
args_json:
  description: Of a claim, the same as JSON, for programs.
  returned: claim
  type: str
command:
  description: Of a claim, which command and attempt it is, as the broker says.
  returned: claim
  type: dict
kept:
  description: Of a result, whether it could be kept. Else the command has ended in an error.
  returned: result
  type: bool
lease_s:
  description: Of a claim, how long this run may be silent.
  returned: claim
  type: float
deadline_at:
  description: Of a claim, when the caller's deadline is.
  returned: claim
  type: str
env:
  description:
    - Of a claim, environment variables for what does the work. E(TRACEPARENT) names the attempt's
      span (W3C Trace Context), where the call is of a trace.
  returned: claim
  type: dict
reason:
  description: Of a claim, why not to go on.
  returned: claim
  type: str
"""

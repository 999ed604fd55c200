"""Documentation of the action mcpbroker.eda.run; an action plugin of the name does it."""
# Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: run
short_description: Run a program under a command's lease
description:
  - Says progress while the program works, and ends it when the broker asks for that.
  - The last line that the program writes to stderr is the message of each progress word.
author: The MCP broker authors (@mcpbroker)
options:
  argv:
    description: The program and its arguments. There is no shell.
    type: list
    elements: str
    required: true
  stdin:
    description: What it reads from stdin, a text, or else any data as JSON.
    type: raw
  env:
    description: Environment variables to add. Each, as all of argv, holds 128 KiB at most.
    type: dict
  stage:
    description: For the progress words, what is being done.
    type: str
    required: true
  percent:
    description: For the progress words, how far it is.
    type: float
  lease_s:
    description: The claim's. A word is said three times as often.
    type: float
    default: 60
extends_documentation_fragment: [mcpbroker.eda.broker]
"""

EXAMPLES = r"""
- name: Clone
  mcpbroker.eda.run:
    argv: [git, clone, "{{ claimed.args.repo }}", there]
    stage: cloning
    lease_s: "{{ claimed.lease_s }}"
"""

RETURN = r"""
rc:
  description: How it ended. A program that fails, fails the task.
  returned: always
  type: int
stdout:
  description: What it has written.
  returned: success
  type: str
stderr:
  description: The end of what it has written there.
  returned: success
  type: str
"""

"""Kind `aap`: a job or workflow template of an automation controller, launched and followed.

The template need not know of the broker: its job's tasks are the progress, what it keeps by
`set_stats` and its last lines are the result.
"""

from typing import Final

from adapters.aap.checks import check
from adapters.aap.client import ControllerTarget
from adapters.contract import Kind

KIND: Final = Kind(open=ControllerTarget, check=check)

"""Kind `command`: a program of the target's, run for one call in a folder of its own."""

from typing import Final

from adapters.command.checks import check
from adapters.command.launching import Launcher
from adapters.command.running import Program
from adapters.contract import Kind

KIND: Final = Kind(open=Program, check=check, share=Launcher)

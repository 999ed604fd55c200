"""The suite's own guard: it finds a process whose parent is gone."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from uuid import uuid4

import pytest

from tests.support.stack import left_behind


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_process_is_found_after_its_parent_and_session_are_gone() -> None:
    marker = f"LEFT_BEHIND={uuid4()}"
    name, _, value = marker.partition("=")
    argv = ["sh", "-c", "sleep 600 >/dev/null & echo $!"]
    shell = await asyncio.create_subprocess_exec(
        *argv, stdout=PIPE, env=os.environ | {name: value}, start_new_session=True
    )
    printed, _ = await shell.communicate()
    sleeper = int(printed)
    try:
        assert f"{sleeper} sleep 600" in left_behind(marker)
    finally:
        os.kill(sleeper, signal.SIGKILL)

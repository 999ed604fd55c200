"""How a program's whole tree ends: by itself, on cancel, at its deadline, with the launcher."""

import asyncio
import os
from pathlib import Path

import pytest

from adapters.contract import Result
from adapters.kinds import Adapters
from tests.adapters.command.programs import done, failed, python, script
from tests.adapters.executor import Heard, call_of
from tests.support.stack import alive

TREE = """
import os, sys, time, signal
def child(name):
    if os.fork(): return
    os.setsid()                      # it detaches itself, and again, as a daemon does
    if os.fork(): os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(name, "w").write(str(os.getpid()))
    while True: time.sleep(60)
child("one"); child("two")
while not all(os.path.exists(n) and os.stat(n).st_size for n in ("one", "two")): time.sleep(0.01)
os.write(3, b'{"message": "ready"}\\n')
"""
WAIT = TREE + "while True: time.sleep(60)"


def pids(folder: Path) -> list[int]:
    return [int((folder / name).read_text()) for name in ("one", "two")]


@pytest.mark.guarantee("adapters:ended")
async def test_cancel_ends_the_whole_tree(adapters: Adapters, workspace: Path) -> None:
    heard, target = Heard(), python(workspace, options={"folder": str(workspace)})
    running = asyncio.create_task(adapters.run(call_of(target, mapping=script(WAIT)), heard))
    await heard.until_said()
    left = pids(workspace)
    assert all(alive(pid) for pid in left)
    heard.cancel()
    outcome = failed(await asyncio.wait_for(running, 10))
    assert (outcome.code, outcome.outcome_unknown) == ("cancelled", True)
    assert "SIGTERM" in outcome.message
    assert not any(alive(pid) for pid in left)


async def test_a_deadline_ends_a_program_that_ignores_the_request(
    adapters: Adapters, workspace: Path
) -> None:
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT
    target = python(workspace, options={"folder": str(workspace), "grace_s": 0.2})
    call = call_of(target, mapping=script(ignoring), deadline_s=1.5)
    outcome = failed(await asyncio.wait_for(adapters.run(call, Heard()), 15))
    assert outcome.code == "deadline_exceeded"
    assert "SIGKILL" in outcome.message
    assert not any(alive(pid) for pid in pids(workspace))


async def test_what_a_program_leaves_behind_is_ended_with_it(
    adapters: Adapters, workspace: Path
) -> None:
    target = python(workspace, options={"folder": str(workspace)})
    call = call_of(target, mapping=script(TREE + "print('[1]')"))
    assert done(await asyncio.wait_for(adapters.run(call, Heard()), 15)) == [1]
    assert not any(alive(pid) for pid in pids(workspace))


async def test_a_program_that_cleans_up_can_say_that_nothing_was_done(
    adapters: Adapters, workspace: Path
) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(70))\n"
        "os.write(3, b'{\"done\": 0}\\n')\n"
        "while True: time.sleep(60)"
    )
    heard = Heard()
    call = call_of(python(workspace), mapping=script(code, exit_codes={"70": "not_done"}))
    running = asyncio.create_task(adapters.run(call, heard))
    await heard.until_said()
    heard.cancel()
    outcome = failed(await asyncio.wait_for(running, 10))
    assert (outcome.code, outcome.outcome_unknown) == ("cancelled", False)


async def test_a_launcher_that_was_killed_is_started_again(
    adapters: Adapters, workspace: Path
) -> None:
    call = call_of(python(workspace), mapping=script("import os; print(os.getppid())"))
    await adapters.run(call, Heard())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    launcher = next(
        int(pid) for pid in children if b"launcher.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(launcher, 9)
    outcomes = [await adapters.run(call, Heard()) for _ in range(3)]
    assert all(isinstance(one, Result) for one in outcomes[1:]), outcomes
    assert isinstance(outcomes[0], Result) or outcomes[0].retryable

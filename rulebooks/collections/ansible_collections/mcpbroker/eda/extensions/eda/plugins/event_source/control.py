"""control.py: ends the runs whose commands were cancelled or are past their deadline.

A source that gives the rules no event: it reads mcp.control within ansible-rulebook, so that a
cancel arrives also while the engine is full, and at a playbook that says no progress. Every
process reads all of it, and each acts on the runs that are its own:

- a playbook that this ansible-rulebook started: its process tree is ended;
- a call of a kind of adapter (mcpbroker.eda.call) in such a playbook: it is told to end, and says
  itself what came of it;
- a job of the controller that ansible-rulebook launches on: it is cancelled there.

It also follows the jobs that ansible-rulebook launches, and tells the broker which launch failed,
and which job is over without a last word, and why (support/launches.py, support/following.py).

It also removes the folders of playbooks that nobody waits for any more, as a killed
ansible-rulebook leaves them, with its events' arguments.

What it has ended it reports to the broker, whose command ends by it. A run is known by the name
that its claim gave (mcpbroker.eda.broker); one that was given another name is left alone.
"""

import asyncio
import contextlib
import logging
import os
import runpy
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ansible_rulebook.job_template_runner import job_template_runner as controller

DOCUMENTATION = """
short_description: End runs that are not wanted, and follow the controller's jobs
description:
  - Reads mcp.control within ansible-rulebook. It gives the rules no event.
author: The MCP broker authors (@mcpbroker)
options:
  topic: {description: "The broker's control topic.", default: mcp.control}
  follow: {description: "Whether to follow the controller's jobs.", type: bool, default: true}
  follow_s: {description: "How often to look at jobs that are under way.", default: 2}
  sweep_s: {description: "How often to look for jobs that others have launched.", default: 30}
  left_s: {description: "How old a folder is that no process uses, to be removed.", default: 600}
  broker_url: {description: "The broker's address. Else MCP_BROKER_URL."}
  token: {description: "The adapters' token. Else MCP_BROKER_TOKEN."}
  token_file: {description: "A file with it, read at each report. Else MCP_BROKER_TOKEN_FILE."}
  ca_file: {description: "Authorities of the broker's certificate. Else MCP_BROKER_CAFILE."}
  client_cert: {description: "A client's certificate to present. Else MCP_BROKER_CERTFILE."}
  client_key: {description: "Its key. Else MCP_BROKER_KEYFILE."}
notes:
  - Kafka's address and credentials as for mcpbroker.eda.kafka; no group.
  - Playbooks are ended on Linux only, by /proc, and folders are removed there only.
"""

logger = logging.getLogger("mcpbroker.eda.control")

Act = Callable[[dict[str, Any]], Awaitable[None]]
CancelJob = Callable[[str, str], Awaitable[bool]]

# A process that starts looks back so far from the newest message that it finds, by the writers' own
# clocks: a controller's jobs live on while it is away. What comes later counts whatever it says of
# its time, as no two machines' clocks agree.
LOOK_BACK_S = 300.0
LEFT_S = 600.0
END_S = 10.0
CALL_END_S = 20.0
"""An adapter has 15 s to end its work, and then says its last word."""
POLL_S = 0.1
SUPPORT = Path(__file__).parents[1] / "support"


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:  # noqa: ARG001 the API's
    """Act on control messages until cancelled."""
    kafka = runpy.run_path(str(Path(__file__).with_name("kafka.py")))
    args = kafka["given"](args)
    topic = args.get("topic") or "mcp.control"
    broker = _support("broker")["Reporter"](args)
    api = _support("controller")["Api"]()
    cancel_job = partial(_support("jobs")["cancel_job"], api)

    async def act(said: dict[str, Any]) -> None:
        await _act(said, broker, cancel_job)

    # From the beginning, as without a group there is no place to go on from; what is old is passed.
    args |= {"group_id": None, "offset": "earliest"}
    sweeping = asyncio.create_task(_sweep(float(args.get("left_s") or LEFT_S)))
    try:
        async with _following(args, api, broker):
            await kafka["keep_reading"](args, lambda consumer: _read(consumer, topic, kafka, act))
    finally:
        sweeping.cancel()
        await api.close()


def _support(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SUPPORT / f"{name}.py"))


@contextlib.asynccontextmanager
async def _following(args: dict[str, Any], api: Any, broker: Any) -> AsyncGenerator[None]:
    """Inside the block launches and jobs are watched, where there is a controller."""
    if not api.is_there or str(args.get("follow", True)).lower() in {"false", "no", "0"}:
        yield
        return
    given = {name: float(args[name]) for name in ("follow_s", "sweep_s") if args.get(name)}
    follower = _support("following")["Follower"](
        api, broker, every_s=given.get("follow_s", 2.0), sweep_s=given.get("sweep_s", 30.0)
    )
    launches = _support("launches")["Launches"](controller, api, follower, broker)
    launches.watch()
    following = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        following.cancel()
        launches.leave()


async def _read(consumer: Any, topic: str, kafka: dict[str, Any], act: Act) -> None:
    acting: set[asyncio.Task[None]] = set()
    try:
        past = Past()
        consumer.subscribe(topics=[topic])
        print(f"mcpbroker.eda.control: reads {topic}", flush=True)  # it has reached Kafka
        while True:
            record = await kafka["next_record"](consumer)
            if record is None:
                continue
            for one in await past.due(consumer, record):
                task = asyncio.create_task(act(kafka["body_of"](one.value, "utf-8") or {}))
                acting.add(task)
                task.add_done_callback(acting.discard)
    finally:
        for task in acting:
            task.cancel()


class Past:
    """The messages that were there before this process: the newest of them count."""

    def __init__(self) -> None:
        self._ends: dict[Any, int] = {}
        self._kept: dict[Any, list[Any]] = {}

    async def due(self, consumer: Any, record: Any) -> list[Any]:
        """What to act on, now that a record has come."""
        place = next(
            one
            for one in consumer.assignment()
            if (one.topic, one.partition) == (record.topic, record.partition)
        )
        if place not in self._ends:
            self._ends |= await consumer.end_offsets([place])
        if record.offset >= self._ends[place]:
            return [*self._kept.pop(place, []), record]
        kept = [*self._kept.pop(place, []), record]
        since = record.timestamp - LOOK_BACK_S * 1000
        recent = [one for one in kept if one.timestamp >= since]
        if record.offset + 1 >= self._ends[place]:
            if len(recent) < len(kept):
                logger.info("control messages from before the start are passed over")
            return recent
        self._kept[place] = recent
        return []


async def _act(said: dict[str, Any], broker: Any, cancel_job: CancelJob) -> None:
    """End the run that a message names, if it is one of ours, and say so."""
    try:
        if said.get("action") != "cancel" or not await _ended(said, cancel_job):
            return
        logger.warning("ended the run of command %s", said["correlation_id"])
        # Where the run had said a last word itself, that one holds.
        error = {"code": "stopped", "message": f"The run was ended: {said.get('reason')}"}
        body = {"status": "error", "error": error | {"retryable": False}}
        await broker.report(said["correlation_id"], body | {"attempt": said.get("attempt")})
    except RuntimeError as error:  # the controller's answers, in one line
        logger.error("could not end the run of command %s: %s", said.get("correlation_id"), error)  # noqa: TRY400
    except Exception:  # one message must not end the source, and ansible-rulebook with it
        logger.exception("could not end the run of command %s", said.get("correlation_id"))


async def _ended(said: dict[str, Any], cancel_job: CancelJob) -> bool:
    match str(said.get("adapter")).split(":"):
        case ["job", job, _] if job.isdecimal() and controller.host:
            return await cancel_job(job, said["correlation_id"])
        case [node, pid, started, _] if node == os.uname().nodename and pid.isdecimal():
            return await asyncio.to_thread(end_tree, int(pid), started)
        case ["call", node, pid, started, _] if node == os.uname().nodename and pid.isdecimal():
            return await asyncio.to_thread(end_call, int(pid), started)
    return False


# Playbooks


def end_tree(pid: int, started: str) -> bool:
    """End a playbook below this process, and all below it; False where there is no such process.

    Ansible itself is killed, before it can start more or pass a SIGTERM on: a second one would end
    what the first has made a program clean up with. Then SIGTERM, so that programs can remove
    what they have half done, and SIGKILL after END_S. `started` tells a process from a later one of
    the same number.
    """
    table = processes()
    if pid not in table or table[pid][2] != started or not _is_below(pid, os.getpid(), table):
        return False
    known = _kill_ansible(pid, started)
    _signal(known, signal.SIGTERM)
    until = time.monotonic() + END_S
    killing_until = until + END_S
    while (found := _tree(processes(), known)) and time.monotonic() < killing_until:
        known |= found
        # What they start while they end is how they clean up: it is let be until the end.
        if time.monotonic() >= until:
            _signal(found, signal.SIGKILL)
        time.sleep(POLL_S)
    _remove_temporary(known)
    return True


def end_call(pid: int, started: str) -> bool:
    """Tell a task's process to end its call; whether it had to be killed, and so has said nothing.

    It asks the broker why, ends what it has begun at its target, and reports.
    """
    table = processes()
    if pid not in table or table[pid][2] != started or not _is_below(pid, os.getpid(), table):
        return False
    play = table[pid][0]
    _signal([pid], signal.SIGTERM)
    until = time.monotonic() + CALL_END_S
    while time.monotonic() < until:
        if processes().get(pid, table[play])[2] != started:
            return False
        time.sleep(POLL_S)
    return end_tree(play, table[play][2])


def _kill_ansible(pid: int, started: str) -> dict[int, str]:
    """Kill a playbook and its workers; returns them, and what was below them."""
    _signal([pid], signal.SIGSTOP)
    # Each worker leads a session (ansible-core 2.19); one of an older Ansible passes nothing on.
    workers = [one for one, (up, session, _) in processes().items() if up == pid and session == one]
    _signal(workers, signal.SIGSTOP)
    known = {pid: started} | _below({pid}, processes())
    _signal([pid, *workers], signal.SIGKILL)
    return known


def _signal(pids: Iterable[int], signum: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def processes() -> dict[int, tuple[int, int, str]]:
    """Every process that has not ended: its parent, its session, and when it started."""
    found: dict[int, tuple[int, int, str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # pid (any name) state parent group session …; the 22nd is the start (proc(5)).
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[int(path.parent.name)] = (int(fields[1]), int(fields[3]), fields[19])
    return found


def _is_below(pid: int, top: int, table: dict[int, tuple[int, int, str]]) -> bool:
    while pid in table and pid != top:
        pid = table[pid][0]
    return pid == top


def _below(tops: set[int], table: dict[int, tuple[int, int, str]]) -> dict[int, str]:
    """The processes below some, and those of the sessions that they lead."""
    found: dict[int, str] = {}
    while more := {
        one: started
        for one, (parent, session, started) in table.items()
        if one not in tops and (parent in tops or session in tops)
    }:
        found |= more
        tops = tops | more.keys()
    return found


def _tree(table: dict[int, tuple[int, int, str]], known: dict[int, str]) -> dict[int, str]:
    """What lives of a known tree, also where its middle has ended, and what it started since."""
    alive = {one: at for one, at in known.items() if one in table and table[one][2] == at}
    return alive | _below(set(alive), table)


def _remove_temporary(pids: dict[int, str]) -> None:
    """Remove the folders that ansible names by its processes, and leaves at a SIGTERM."""
    home = Path(os.environ.get("ANSIBLE_HOME", "~/.ansible")).expanduser()
    for folder in {home / "tmp", Path("~/.ansible/tmp").expanduser()}:
        for pid in pids:
            # mkdtemp adds eight characters.
            for pattern in (f"ansible-local-{pid}????????", f"ansible-tmp-*-{pid}-*"):
                for left in folder.glob(pattern):
                    shutil.rmtree(left, ignore_errors=True)


async def _sweep(left_s: float) -> None:
    """Remove what is left of killed processes, at the start and from time to time."""
    while True:
        try:
            for folder in await asyncio.to_thread(remove_left, left_s):
                logger.warning("removed %s, which a process that was killed has left", folder)
        except Exception:  # tidying up must not end the source
            logger.exception("what killed processes have left is not removed")
        await asyncio.sleep(left_s)


def remove_left(left_s: float) -> list[Path]:
    """Remove ansible-rulebook's folders of playbooks (run_playbook.py) that no process uses.

    Other processes of the machine have theirs beside ours, so age alone does not tell.
    """
    if not Path("/proc/self/cmdline").exists():
        return []
    before = time.time() - left_s
    found = [
        folder
        for folder in Path(tempfile.gettempdir()).glob("eda????????")  # mkdtemp's eight
        if not folder.is_symlink() and (folder / "env").is_dir() and (folder / "project").is_dir()
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mtime < before
    ]
    used = _in_use() if found else ""
    left = [folder for folder in found if folder.name not in used]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return left


def _in_use() -> str:
    """The command lines and working folders of all processes."""
    texts: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            texts.append((process / "cmdline").read_text(errors="replace"))
            texts.append(str((process / "cwd").readlink()))
    return "\n".join(texts)

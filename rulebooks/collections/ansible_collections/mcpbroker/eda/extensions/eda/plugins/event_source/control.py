"""control.py: ends the runs whose commands were cancelled or are past their deadline.

A source that gives the rules no event: it reads mcp.control within ansible-rulebook, so that a
cancel arrives also while the engine is full, and at a playbook that says no progress. Every
process reads all of it, and each acts on the runs that are its own:

- a playbook that this ansible-rulebook started: its process tree is ended;
- a job of the controller that ansible-rulebook launches on: it is cancelled there.

It also removes the folders of playbooks that nobody waits for any more, as a killed
ansible-rulebook leaves them, with its events' arguments.

What it has ended it reports to the broker, whose command ends by it. A run is known by the name
that its claim gave (mcpbroker.eda.broker); one that was given another name is left alone.
"""

import asyncio
import contextlib
import json
import logging
import os
import runpy
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
from ansible_rulebook.job_template_runner import job_template_runner as controller

DOCUMENTATION = """
options:
  topic: {description: "The broker's control topic.", default: mcp.control}
  left_s: {description: "How old a folder is that no process uses, to be removed.", default: 600}
notes:
  - Kafka's address and credentials as for mcpbroker.eda.kafka; no group.
  - Playbooks are ended on Linux only, by /proc, and folders are removed there only.
"""

logger = logging.getLogger("mcpbroker.eda.control")

# A process that starts looks back so far from the newest message that it finds, by the writers' own
# clocks: a controller's jobs live on while it is away. What comes later counts whatever it says of
# its time, as no two machines' clocks agree.
LOOK_BACK_S = 300.0
LEFT_S = 600.0
END_S = 10.0
POLL_S = 0.1
JOB_END_S = 60.0
JOB_POLL_S = 0.5
TRIES = 8
ENDED = frozenset({"successful", "failed", "error", "canceled"})


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:  # noqa: ARG001 the API's
    """Act on control messages until cancelled."""
    kafka = runpy.run_path(str(Path(__file__).with_name("kafka.py")))
    args = kafka["given"](args)
    topic = args.get("topic") or "mcp.control"
    # From the beginning, as without a group there is no place to go on from; what is old is passed.
    args |= {"group_id": None, "offset": "earliest"}
    sweeping = asyncio.create_task(_sweep(float(args.get("left_s") or LEFT_S)))
    try:
        await kafka["keep_reading"](args, lambda consumer: _read(consumer, topic, kafka))
    finally:
        sweeping.cancel()


async def _read(consumer: Any, topic: str, kafka: dict[str, Any]) -> None:
    acting: set[asyncio.Task[None]] = set()
    try:
        past = Past()
        consumer.subscribe(topics=[topic])
        while True:
            record = await kafka["next_record"](consumer)
            if record is None:
                continue
            for one in await past.due(consumer, record):
                task = asyncio.create_task(_act(kafka["body_of"](one.value, "utf-8") or {}))
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


async def _act(said: dict[str, Any]) -> None:
    """End the run that a message names, if it is one of ours, and say so."""
    try:
        if said.get("action") == "cancel" and await _ended(said):
            logger.warning("ended the run of command %s", said["correlation_id"])
            await _report(said)
    except Exception:  # one message must not end the source, and ansible-rulebook with it
        logger.exception("could not end the run of command %s", said.get("correlation_id"))


async def _ended(said: dict[str, Any]) -> bool:
    match str(said.get("adapter")).split(":"):
        case ["job", job, _] if job.isdecimal() and controller.host:
            return await cancel_job(job, said["correlation_id"])
        case [node, pid, started, _] if node == os.uname().nodename and pid.isdecimal():
            return await asyncio.to_thread(end_tree, int(pid), started)
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


# Jobs


async def cancel_job(job: str, correlation_id: str) -> bool:
    """Cancel a job of the controller; False where it is not this command's, or had ended.

    POST jobs/{id}/cancel/ answers 202, or 405 where there is nothing to cancel (AWX's API v2).
    """
    # As ansible-rulebook does: a host with a path is a gateway's.
    slug = "v2/jobs" if controller.host.rstrip("/").count("/") > 2 else "api/v2/jobs"
    url = f"{controller.host}{slug}/{job}/"
    headers = {"Authorization": f"Bearer {controller.token}"} if controller.token else {}
    auth = None
    if not controller.token and controller.username:
        auth = aiohttp.BasicAuth(controller.username, controller.password)
    async with aiohttp.ClientSession(headers=headers, auth=auth) as session:
        found = await _json(session, "GET", url)
        # A claim's name is its adapter's word: no other job is cancelled for it.
        if found["status"] in ENDED or correlation_id not in str(found.get("extra_vars")):
            return False
        await _json(session, "POST", f"{url}cancel/", fine=(200, 202, 405))
        async with asyncio.timeout(JOB_END_S):
            while (await _json(session, "GET", url))["status"] not in ENDED:
                await asyncio.sleep(JOB_POLL_S)
    return True


async def _json(
    session: aiohttp.ClientSession, method: str, url: str, *, fine: tuple[int, ...] = (200,)
) -> dict[str, Any]:
    verify = (controller.verify_ssl or "yes").lower()
    tls: ssl.SSLContext | bool = True
    if verify in {"no", "false"}:
        tls = False
    elif verify not in {"yes", "true"}:
        tls = ssl.create_default_context(cafile=controller.verify_ssl)
    async with session.request(method, url, ssl=tls) as answer:
        text = await answer.text()
        if answer.status not in fine:
            raise RuntimeError(f"the controller answered {answer.status} to {method} {url}")
        return json.loads(text or "{}")


# The broker


async def _report(said: dict[str, Any]) -> None:
    """Say that the run was ended. Where it had said a last word itself, that one holds."""
    url = os.environ.get("MCP_BROKER_URL", "http://127.0.0.1:8080").rstrip("/")
    error = {"code": "stopped", "message": f"The run was ended: {said.get('reason')}"}
    body = {
        "status": "error",
        "error": error | {"retryable": False},
        "attempt": said.get("attempt"),
    }
    ca = os.environ.get("MCP_BROKER_CAFILE")
    tls = ssl.create_default_context(cafile=ca) if ca else True
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session:
        for n in range(TRIES):
            headers = {"Authorization": f"Bearer {_token()}"}
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError):
                path = f"{url}/results/{said['correlation_id']}"
                async with session.post(path, json=body, headers=headers, ssl=tls) as answer:
                    if answer.status not in {401, 408, 429, 500, 502, 503, 504}:
                        return
            await asyncio.sleep(min(10.0, 0.25 * 2**n))
    logger.error("the broker took no word about command %s", said["correlation_id"])


def _token() -> str:
    path = os.environ.get("MCP_BROKER_TOKEN_FILE")
    return Path(path).read_text().strip() if path else os.environ.get("MCP_BROKER_TOKEN", "")

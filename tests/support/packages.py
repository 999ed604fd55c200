"""Packages that tests need beside the lock file's, kept in the cache from run to run."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from devstack import paths

INSTALL_S = 180
UV = Path(sys.executable).parent / "uv"


class UnreachableError(Exception):
    """The package index does not answer from here, or does not have what is wanted."""


def folder(name: str, *wanted: str) -> Path:
    """A folder with exactly these packages, without what they need, to be put on a path.

    Raises:
        UnreachableError: they cannot be had.
    """
    return _kept(name, lambda made: _uv("pip", "install", "--no-deps", "--target", made, *wanted))


def part(name: str, wanted: str, inside: str) -> Path:
    """One folder of a package that holds much more, in its place below the folder returned.

    Raises:
        UnreachableError: it cannot be had.
    """

    def fill(made: Path) -> None:
        whole = made / "whole"
        _uv("pip", "install", "--no-deps", "--target", whole, wanted)
        (made / inside).parent.mkdir(parents=True)
        (whole / inside).rename(made / inside)
        shutil.rmtree(whole)

    return _kept(name, fill)


def collection(name: str, version: str) -> Path:
    """A folder with an Ansible collection of Galaxy's.

    Raises:
        UnreachableError: it cannot be had.
    """

    def fill(made: Path) -> None:
        galaxy = Path(sys.executable).parent / "ansible-galaxy"
        wanted = ["collection", "install", f"{name}:{version}", "--no-deps"]
        _done([galaxy, *wanted, "--collections-path", made])

    return _kept(f"{name}-{version}", fill)


def programs(name: str, pinned: Path) -> Path:
    """The folder of the programs of a virtual environment with what a requirements file pins.

    Raises:
        UnreachableError: it cannot be had.
    """

    def fill(made: Path) -> None:
        _uv("venv", "--relocatable", "--python", sys.executable, made)
        _uv("pip", "sync", "--python", made / "bin" / "python", pinned)

    digest = hashlib.sha256(pinned.read_bytes()).hexdigest()[:12]
    return _kept(f"{name}-{digest}", fill) / "bin"


def _kept(name: str, fill: Callable[[Path], None]) -> Path:
    """What `fill` made once, whole or not at all."""
    home = paths.cache() / name
    with (paths.cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first runs fetch once
        if not home.exists():
            made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=paths.cache()))
            try:
                fill(made)
                made.rename(home)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    return home


def _uv(*argv: str | Path) -> None:
    _done([UV, *argv, "--quiet"])


def _done(argv: Sequence[str | Path]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    if done.returncode != 0:
        raise UnreachableError(done.stderr[-500:])

"""A small file system of its own, which a test can fill up and make room on again."""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

BALLAST: Final = "ballast"
PIECE: Final = bytes(1 << 16)


class Disk:
    """One that is mounted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, name: str) -> Path:
        """A folder on it that the unprivileged user of PostgreSQL may write to."""
        made = self.path / name
        made.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(made, 65534, 65534)
        return made

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.path / BALLAST).open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(PIECE)

    def free(self) -> None:
        """Make the room again that was there."""
        (self.path / BALLAST).unlink(missing_ok=True)

    @property
    def full(self) -> bool:
        """Whether nothing more goes onto it."""
        return os.statvfs(self.path).f_bavail == 0


@contextmanager
def small_disk(size: str) -> Generator[Disk]:
    """A disk of this size, in memory; skips where this user may not mount one."""
    path = Path(f"/tmp/broker-disk-{uuid4().hex[:8]}")
    path.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
        try:
            yield Disk(path)
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)
    finally:
        shutil.rmtree(path, ignore_errors=True)

"""Makes the virtual environment from the lock file: `bootstrap.py VENV`.

Needs Python 3.11 and nothing else, not even pip or ensurepip, which Debian and Ubuntu leave out:
uv, which reads the lock file, is itself named there with its address and hash.
"""

from __future__ import annotations  # an older Python must come as far as to be told so

import hashlib
import os
import platform
import re
import subprocess
import sys
import urllib.request
import zipfile
from io import BytesIO
from pathlib import Path

WANTED = (3, 11)
LOCK = Path("uv.lock")
DOWNLOAD_S = 60


class CannotError(Exception):
    """Why the environment cannot be made, and the cure."""


def main() -> int:
    if sys.version_info < WANTED:
        print(
            f"Python {platform.python_version()} is too old: 3.11 or newer is needed."
            " Name one with: make PYTHON=python3.12 …",
            file=sys.stderr,
        )
        return 1
    try:
        home = Path(sys.argv[1]).absolute()
        uv = make(home)
        print("Installing what uv.lock names …", flush=True)
        sync(home, uv)
    except CannotError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make(home: Path) -> Path:
    """An environment with nothing in it, and the uv to fill it."""
    import venv  # noqa: PLC0415 after the version was looked at

    if not (home / "bin" / "python").exists():
        print(f"Making {home.name} …", flush=True)
        venv.create(home, symlinks=True, with_pip=False)
    url, digest = locked_uv()
    uv = home / f"uv-{digest[:12]}"
    if not uv.exists():
        print(f"Fetching {url.rpartition('/')[2]} …", flush=True)
        part = uv.with_suffix(".part")
        part.write_bytes(uv_inside(fetch(url, digest)))
        part.chmod(0o755)
        part.rename(uv)
    return uv


def locked_uv() -> tuple[str, str]:
    """Address and SHA-256 of the locked uv's wheel for this machine."""
    import tomllib  # noqa: PLC0415 3.11 brought it

    packages = tomllib.loads(LOCK.read_text())["package"]
    wheels = next(package for package in packages if package["name"] == "uv")["wheels"]
    system = "macosx" if sys.platform == "darwin" else "manylinux"
    if sys.platform == "linux" and platform.libc_ver()[0] != "glibc":
        system = "musllinux"
    fits = re.compile(rf"[-.]{system}_\w+_{platform.machine()}\b")
    for wheel in wheels:
        if fits.search(wheel["url"]):
            return wheel["url"], wheel["hash"].removeprefix("sha256:")
    raise CannotError(f"uv has no wheel for {system} on {platform.machine()}.")


def fetch(url: str, digest: str) -> bytes:
    """The file, if it is the one that the lock file means."""
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_S) as answer:  # noqa: S310 https
            body: bytes = answer.read()
    except OSError as error:
        raise CannotError(f"Cannot fetch {url}: {error}.") from error
    if hashlib.sha256(body).hexdigest() != digest:
        raise CannotError(f"{url} is not the file that {LOCK} names: its hash differs.")
    return body


def uv_inside(wheel: bytes) -> bytes:
    with zipfile.ZipFile(BytesIO(wheel)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        return archive.read(name)


def sync(home: Path, uv: Path) -> None:
    """Make the environment equal to the lock file: what it does not name is removed."""
    python = home / "bin" / "python"
    argv = [uv, "sync", "--locked", "--all-extras", "--quiet", "--python", python]
    # Once and here: where PYTHONDONTWRITEBYTECODE is set, each process would do it for itself, 4 s
    # for an app.
    argv.append("--compile-bytecode")
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(home), "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise CannotError(f"uv sync failed (exit {done.returncode}): see above.")


if __name__ == "__main__":
    sys.exit(main())

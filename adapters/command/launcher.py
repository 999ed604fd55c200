"""A small process that starts programs for the worker: run as a file, by nothing but the library.

It forks for each program, so that starting one costs a millisecond or two, limits can be set where
no thread is, and somebody outlives a killed worker. The fork supervises one program: orphans of its
tree become its children, so it ends the whole tree when the program has ended, when it is told to,
and when the worker is gone. A program of the same user could end its supervisor; it then ends too.

On the supervisor's control socket come a line of JSON and later `T` (end it) or the socket's end;
back go lines: `{"started": pid}` or `{"errno": n}`, then `{"exit": code}` or `{"signal": n}`.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import time

SUBREAPER = 36
DEATH_SIGNAL = 1
NO_NEW_PRIVILEGES = 38
PROGRESS_FD = 3
DESCRIPTORS = 5
SPEC_BYTES_MAX = 64 * 1024 * 1024
KILL_S = 10.0
ROUND_S = 0.005
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Fork a supervisor for each set of descriptors that comes, until the worker is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are nobody's zombies
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's; the worker says when it is over
    requests = socket.socket(fileno=int(sys.argv[1]))
    while True:
        told, descriptors, _, _ = socket.recv_fds(requests, 1, DESCRIPTORS)
        if not told:
            return
        try:
            pid = os.fork()
        except OSError:
            pid = -1  # the worker sees its control socket close
        if pid == 0:
            code = 1
            try:
                requests.close()
                supervise(*descriptors)
                code = 0
            finally:
                os._exit(code)
        for one in descriptors:
            os.close(one)


def supervise(control_fd: int, *streams: int) -> None:
    """Run one program to its end, and leave no process of its tree, nor its folder."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    control = socket.socket(fileno=control_fd)
    spec = json.loads(read_line(control))
    LIBC.prctl(SUBREAPER, 1, 0, 0, 0)
    folder = spec["folder"]
    try:
        if folder is None:
            folder = tempfile.mkdtemp(prefix="mcp-call-", dir=spec["parent"])
        else:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        pid = start(spec, folder, streams)
    except OSError as error:
        say(control, {"errno": error.errno})
        remove(spec, folder)
        return
    for one in streams:
        os.close(one)
    say(control, {"started": pid})
    status = watch(control, pid, spec["grace_s"])
    end_the_rest()
    ended = os.WIFSIGNALED(status)
    say(control, {"signal": os.WTERMSIG(status)} if ended else {"exit": os.WEXITSTATUS(status)})
    control.close()
    remove(spec, folder)


def start(spec: dict, folder: str, streams: tuple) -> int:
    """Fork and exec; raises what exec, or a limit, said."""
    said, saying = os.pipe()
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            LIBC.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:
                os._exit(1)
            LIBC.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
            os.umask(0o077)
            os.chdir(folder)
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            saying = place(streams, saying)
            for name, bound in spec["limits"].items():
                limit(getattr(resource, name), bound)
            environment = {"HOME": folder, "TMPDIR": folder} | spec["env"]
            os.execve(spec["program"], spec["argv"], environment)  # noqa: S606
        except OSError as error:
            os.write(saying, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(saying)
    told = os.read(said, 16)
    os.close(said)
    if told:
        os.waitpid(pid, 0)
        raise OSError(int(told), os.strerror(int(told)))
    return pid


def place(streams: tuple, saying: int) -> int:
    """Put the streams at 0 to 3, what tells of a failed exec behind them, and close all others."""
    high = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 16) for one in (*streams, saying)]
    for number, one in enumerate(high):
        os.dup2(one, number, inheritable=number <= PROGRESS_FD)
    os.closerange(len(high), os.sysconf("SC_OPEN_MAX"))
    return PROGRESS_FD + 1


def limit(which: int, bound: int) -> None:
    """Set a limit, within what this process may have; of CPU time, a second to say goodbye."""
    hard = resource.getrlimit(which)[1]
    soft = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    more = soft + 1 if which == resource.RLIMIT_CPU else soft
    resource.setrlimit(which, (soft, more if hard == resource.RLIM_INFINITY else min(more, hard)))


def watch(control: socket.socket, pid: int, grace_s: float) -> int:
    """Wait for the program's end; told to, or alone, ask it to end, and then end it."""
    exited = os.pidfd_open(pid)
    listening, until = True, None
    while True:
        left_s = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select([exited, control] if listening else [exited], [], [], left_s)
        if exited in ready:
            os.close(exited)
            return os.waitpid(pid, 0)[1]
        if not ready:
            os.kill(pid, signal.SIGKILL)
            until = None
        elif until is None:
            told = b""
            with contextlib.suppress(OSError):
                told = control.recv(1)
            listening = bool(told)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
            until = time.monotonic() + grace_s
        else:  # told again, or the worker is gone: the clock runs
            listening = False


def end_the_rest() -> None:
    """Kill what the program left: all of it is below this process, however it detached itself."""
    until = time.monotonic() + KILL_S
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for one in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)
        time.sleep(ROUND_S)


def descendants(root: int) -> list:
    """Every process below one, of one look at /proc."""
    below: dict = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                below.setdefault(parent, []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        children = below.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def remove(spec: dict, folder: str | None) -> None:
    """Remove a folder that was made for the call, whatever the program did to its rights."""
    if folder is None or spec["folder"] is not None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.exists(folder):
        return
    os.chmod(folder, 0o700)
    for at, names, _ in os.walk(folder):
        for name in names:
            inner = os.path.join(at, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def read_line(control: socket.socket) -> bytes:
    """The first line that the worker sends."""
    read = bytearray()
    while not read.endswith(b"\n"):
        more = control.recv(1 << 16)
        if not more or len(read) > SPEC_BYTES_MAX:
            os._exit(0)
        read += more
    return bytes(read)


def say(control: socket.socket, what: dict) -> None:
    """Tell the worker, if it is there."""
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()

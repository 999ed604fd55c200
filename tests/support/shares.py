"""One server for all of a run's workers: who needs it first starts it, and ends it after all."""

import fcntl
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO

Start = Callable[[], AbstractContextManager[str]]


class Shares:
    """The servers that a worker uses; the folder is the same for all workers of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used = ExitStack()

    def address(self, name: str, start: Start) -> str:
        """Where this server is; it is started here where nobody has."""
        with (self._folder / f"{name}.starting").open("a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            use = self._used.enter_context((self._folder / f"{name}.users").open("a"))
            # Waits for one who is ending it just now, whose address is no more afterwards.
            fcntl.flock(use, fcntl.LOCK_SH)
            written = self._folder / f"{name}.address"
            if not written.exists():
                found = self._used.enter_context(_until_all_are_done(start, use, written))
                written.write_text(found)
            return written.read_text()

    def close(self) -> None:
        """Use them no longer, and end what was started here when nobody uses it any longer."""
        self._used.close()


@contextmanager
def _until_all_are_done(start: Start, use: IO[str], written: Path) -> Generator[str]:
    with start() as found:
        yield found
        # Kept by the kernel, so also a worker that was killed is done.
        fcntl.flock(use, fcntl.LOCK_EX)
        written.unlink()

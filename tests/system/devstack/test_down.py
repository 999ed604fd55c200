"""What `make down` ends."""

import subprocess
import threading
from pathlib import Path
from signal import SIGTERM

from devstack.cli import end
from tests.support.stack import alive, wait_for


def server_with_a_child(folder: Path) -> int:
    """The pid of a server; the child's is in the folder, once it runs."""
    # As ansible-runner starts playbooks.
    program = 'setsid sleep 600 & echo $! > "$0/new"; mv "$0/new" "$0/pid"; wait'
    server = subprocess.Popen(["sh", "-c", program, folder], start_new_session=True)
    threading.Thread(target=server.wait, daemon=True).start()
    return server.pid


async def test_down_ends_what_a_server_has_started_in_a_session_of_its_own(tmp_path: Path) -> None:
    server = server_with_a_child(tmp_path)

    async def started() -> bool:
        return (tmp_path / "pid").exists()

    await wait_for(started)
    child = int((tmp_path / "pid").read_text())
    assert alive(child)
    end(server, SIGTERM)

    async def gone() -> bool:
        return not alive(child)

    await wait_for(gone)

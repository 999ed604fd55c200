"""What `make up` says, and what `make down` ends."""

import socket
import subprocess
import threading
from pathlib import Path
from signal import SIGTERM

import pytest
from typer.testing import CliRunner

from devstack.cli import app, end
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


def test_up_on_a_taken_port_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["up", "--port", str(port)])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert f"Port {port} is taken" in done.output
    assert not (tmp_path / ".broker").exists(), "nothing was started"

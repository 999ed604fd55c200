"""The console script: what it says of itself, and how it fails."""

import os
import subprocess
import sys

from app import assets
from app.config import PREFIX


def run(*argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return subprocess.run(
        [sys.executable, "-m", "worker", *argv],
        cwd=assets.root(),
        env=clean | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_help_says_what_the_worker_does() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "broker-worker" in done.stdout
    assert "SIGTERM" in done.stdout


def test_a_setting_that_is_wrong_is_named_without_a_trace() -> None:
    done = run(MCP_BROKER_WORKER_CALLS_MAX="none")
    assert done.returncode == 1
    assert "worker_calls_max" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_settings_file_that_is_not_there_is_named_without_a_trace() -> None:
    done = run(MCP_BROKER_TOKEN_FILE="/nowhere/token")
    assert done.returncode == 1
    assert "/nowhere/token" in done.stderr
    assert "Traceback" not in done.stderr

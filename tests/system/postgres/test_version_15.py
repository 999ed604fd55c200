"""The oldest PostgreSQL that is supported, where one is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devstack.postgres import EmbeddedPostgres

SYSTEM_15 = Path("/usr/lib/postgresql/15/bin")
TESTS = ("tests/intake", "tests/commands/test_results.py")


@pytest.mark.skipif(not SYSTEM_15.exists(), reason="no PostgreSQL 15 on this machine")
@pytest.mark.timeout(300)
def test_intake_and_results_work_on_postgresql_15_too() -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    with EmbeddedPostgres(binaries=SYSTEM_15) as server:
        env = {**os.environ, "DATABASE_URL": server.dsn}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]

"""Makes the virtual environment from the lock file: `bootstrap.py VENV UV_VERSION`.

Needs Python 3.11 and nothing else. uv, which reads the lock file, goes into the environment.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

WANTED = (3, 11)


def main() -> int:
    if sys.version_info < WANTED:
        print(
            f"Python {sys.version.split()[0]} is too old: 3.11 or newer is needed."
            " Name one with: make PYTHON=python3.12 …",
            file=sys.stderr,
        )
        return 1
    home, uv_version = Path(sys.argv[1]), sys.argv[2]
    python = home / "bin" / "python"
    try:
        if not python.exists():
            print(f"Making {home} …", flush=True)
            venv.create(home, with_pip=True)
    except (subprocess.CalledProcessError, ModuleNotFoundError):
        print(
            "This Python has no ensurepip, which makes virtual environments. On Debian and Ubuntu:"
            " apt-get install python3-venv. Or name another Python: make PYTHON=…",
            file=sys.stderr,
        )
        return 1
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", f"uv=={uv_version}"], check=True)
    print("Installing what uv.lock names …", flush=True)
    # --inexact: uv itself is not in the lock file and stays.
    sync = [home / "bin" / "uv", "sync", "--locked", "--all-extras", "--inexact", "--quiet"]
    env = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(home), "UV_PYTHON": str(python)}
    subprocess.run(sync, check=True, env=env)
    return 0


if __name__ == "__main__":
    sys.exit(main())

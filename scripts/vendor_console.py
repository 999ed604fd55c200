"""Bring the console's scripts from npm into the tree, at the versions and hashes named here.

Run it after changing one: `.venv/bin/python scripts/vendor_console.py`. The app and its wheel need
neither npm nor this; a test holds what is in the tree to `vendor.json`.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

VENDOR: Final = Path(__file__).resolve().parents[1] / "app/console/static/vendor"

# Package, version, the archive's integrity as npm names it, and the files that are kept.
PACKAGES: Final = (
    (
        "htmx.org",
        "2.0.11",
        (
            "sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM"
            "3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA=="
        ),
        {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "htmx.LICENSE"},
    ),
    (
        "htmx-ext-sse",
        "2.2.4",
        (
            "sha512-LJmxVhykyflBWgh5PvbRidcyuqMHlgfajmmzumvK"
            "ctv9puvsufeH6OaejSMZTNTnEI8O2wXXn4ZZtBdpEMqmEQ=="
        ),
        {"dist/sse.min.js": "htmx-ext-sse.min.js", "LICENSE": "htmx-ext-sse.LICENSE"},
    ),
)


def main() -> int:
    made: list[dict[str, object]] = []
    for package, version, integrity, files in PACKAGES:
        with tempfile.TemporaryDirectory() as folder:
            argv = ["npm", "pack", f"{package}@{version}", "--pack-destination", folder]
            subprocess.run(argv, check=True, capture_output=True)
            [archive] = Path(folder).glob("*.tgz")
            digest = hashlib.sha512(archive.read_bytes()).digest()
            if integrity != f"sha512-{base64.b64encode(digest).decode()}":
                print(f"{package}@{version} is not what was pinned", file=sys.stderr)
                return 1
            kept: dict[str, str] = {}
            with tarfile.open(archive) as tar:
                for inside, name in files.items():
                    found = tar.extractfile(f"package/{inside}")
                    assert found is not None, inside
                    content = found.read()
                    (VENDOR / name).write_bytes(content)
                    kept[name] = hashlib.sha256(content).hexdigest()
        made.append(
            {"package": package, "version": version, "integrity": integrity, "sha256": kept}
        )
        print(package, version)
    (VENDOR / "vendor.json").write_text(json.dumps(made, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

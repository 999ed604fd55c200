"""What came from npm is what it was when it came."""

import hashlib
import json
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "app/console/static/vendor"


def test_each_vendored_file_has_the_hash_that_was_recorded_with_its_licence_beside_it() -> None:
    known = json.loads((VENDOR / "vendor.json").read_text())
    kept = {name: digest for one in known for name, digest in one["sha256"].items()}
    there = {path.name for path in VENDOR.iterdir()} - {"vendor.json"}
    assert there == set(kept)
    assert len([name for name in kept if name.endswith(".LICENSE")]) == len(known)
    for name, digest in kept.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name

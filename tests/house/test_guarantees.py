"""docs/GUARANTEES.md and the tests name the same promises, both ways."""

import re

from app import assets

ROOT = assets.root()
WRITTEN = re.compile(r"^\| `([a-z]+:[a-z-]+)` \|", re.MULTILINE)
TESTED = re.compile(r"mark\.guarantee\(\s*\"([^\"]+)\"")


def test_every_promise_has_a_test_and_every_marked_test_a_promise() -> None:
    written = WRITTEN.findall((ROOT / "docs" / "GUARANTEES.md").read_text())
    tested = {
        found
        for path in (ROOT / "tests").rglob("test_*.py")
        for found in TESTED.findall(path.read_text())
    }
    assert len(written) == len(set(written)), "an id stands once"
    assert set(written) - tested == set(), "promised and not tested"
    assert tested - set(written) == set(), "tested and not promised"

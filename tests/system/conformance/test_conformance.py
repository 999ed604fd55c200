"""The official conformance suite against the whole front, on both eras."""

from pathlib import Path

import pytest
import yaml

from tests.support import npm
from tests.system.conformance import suite

EXPECTED = Path(__file__).with_name("expected_failures.yml")
RUNS = {
    "0.1.16": ("0.1.16", []),
    "0.2.0-alpha.12, 2025-11-25": ("0.2.0-alpha.12", ["--spec-version", "2025-11-25"]),
    "0.2.0-alpha.12, 2026-07-28": ("0.2.0-alpha.12", ["--spec-version", "2026-07-28"]),
    "0.2.0-alpha.12, with extensions": ("0.2.0-alpha.12", []),
}


def expected() -> set[str]:
    """Each `scenario/check` that fails for a reason that the file gives."""
    groups = yaml.safe_load(EXPECTED.read_text())
    assert all(group["reason"] for group in groups)
    listed = [check for group in groups for check in group["checks"]]
    assert len(listed) == len(set(listed)), "a check stands there once"
    return set(listed)


@pytest.mark.conformance
async def test_every_check_of_the_suite_passes_but_those_with_a_reason(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed: dict[str, str] = {}
    passed: set[str] = set()
    lines: list[str] = []
    for number, (name, (version, options)) in enumerate(RUNS.items()):
        try:
            program = suite.install(version)
        except npm.UnreachableError as error:
            pytest.skip(f"{suite.PACKAGE}@{version} is not cached and npm is unreachable: {error}")
        out = tmp_path / str(number)
        done = await suite.run(program, url=url, options=options, out=out)
        counts = {status.lower(): len(found) for status, found in sorted(done.checks.items())}
        lines.append(f"conformance {name}: {len(done.scenarios)} scenarios, checks {counts}")
        failed |= done.details
        passed |= set(done.checks["SUCCESS"])
    with capsys.disabled():
        print("", *lines, sep="\n")  # noqa: T201 the counts are what the run is for
    unexpected = {check: said for check, said in failed.items() if check not in expected()}
    assert unexpected == {}
    assert expected() - failed.keys() == set(), "expected to fail, and did not"
    assert any(check.startswith("tasks-lifecycle/") for check in passed)

"""The official suite, from npm, run by the Node.js of a wheel."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import orjson

from tests.support import npm

PACKAGE = "@modelcontextprotocol/conformance"
RUN_S = 80

FOLDER = re.compile(r"^(?:server-)?(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one run of the suite said, as `scenario/check`s by status."""

    scenarios: frozenset[str]
    checks: dict[str, list[str]]
    details: dict[str, str]
    output: str


def install(version: str) -> Path:
    """The suite's program.

    Raises:
        npm.UnreachableError: it is neither in the cache nor to be had from npm.
    """
    return npm.install(PACKAGE, version) / "dist" / "index.js"


async def run(program: Path, *, url: str, options: list[str], out: Path) -> Run:
    """Run all of the suite's server scenarios, to the end."""
    argv = ("server", "--url", url, "--suite", "all", "-o", out, *options)
    _, said, complained = await npm.node(program, *argv, run_s=RUN_S)
    return read(out, output=(said + complained).decode())


def read(out: Path, *, output: str) -> Run:
    """What a run left in its folder: a folder a scenario, a file with its checks in each."""
    checks: defaultdict[str, list[str]] = defaultdict(list)
    details: dict[str, str] = {}
    scenarios: set[str] = set()
    for path in sorted(out.glob("*/checks.json")):
        found = FOLDER.match(path.parent.name)
        assert found is not None, path
        scenarios.add(found[1])
        for check in orjson.loads(path.read_bytes()):
            name = f"{found[1]}/{check['id']}"
            checks[check["status"]].append(name)
            if check["status"] == "FAILURE":
                details[name] = check.get("errorMessage", "")
    assert scenarios, output
    return Run(scenarios=frozenset(scenarios), checks=dict(checks), details=details, output=output)

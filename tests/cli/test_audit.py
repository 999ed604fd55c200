"""`broker audit`: what auditors run, with exit codes that scripts can rely on."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from app.audit import keys, note
from app.cli.audit import app
from tests.audit.conftest import Log
from tests.audit.tampering import EVENT, tamper


async def broker_audit(*argv: str | Path) -> Result:
    """Run the command in a thread, as it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, [str(arg) for arg in argv])


async def sealed(log: Log, *sizes: int) -> None:
    for size in sizes:
        await log.append(size)
        await log.seal()
    await log.owner.execute("INSERT INTO audit.auditors VALUES ('broker_auditor_login', 'demo')")


async def anchor_file(log: Log, path: Path) -> Path:
    rows = await log.owner.fetch("SELECT payload FROM outbox WHERE kind = 'audit' ORDER BY id")
    path.write_text("".join(f"{row['payload']}\n" for row in rows))
    return path


def finding(result: Result) -> dict[str, Any]:
    return orjson.loads(result.stdout)


async def test_an_auditor_verifies_with_pinned_keys_and_anchors(log: Log, tmp_path: Path) -> None:
    await sealed(log, 4, 3)
    result = await broker_audit(
        "verify",
        "demo",
        "--database-url",
        log.dsns.auditor,
        "--keys",
        log.pem(tmp_path / "pinned.pem"),
        "--anchors",
        await anchor_file(log, tmp_path / "anchors.ndjson"),
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = finding(result)
    assert (found["ok"], found["events"], found["seals"], found["anchors"]) == (True, 7, 2, 2)
    assert (found["keys_pinned"], found["signed_by"]) == (True, list(log.keys))
    assert found["root"] == (await log.verify())["root"].hex()


async def test_without_pinned_keys_it_says_what_that_is_worth(log: Log) -> None:
    await sealed(log, 2)
    result = await broker_audit("verify", "demo", "--database-url", log.dsns.auditor)
    assert result.exit_code == 0
    assert "ok demo: 2 events in 1 seals" in result.stdout
    assert "own keys were believed" in result.stdout


async def test_a_fault_is_exit_code_1_and_named(log: Log, tmp_path: Path) -> None:
    await sealed(log, 5, 5)
    bad = await log.owner.fetchval("SELECT event_id FROM audit.members WHERE seq = 7")
    await tamper(log.owner, [EVENT.format(change="actor = 'user:eve'", seq=7)])
    arguments = ("--database-url", log.dsns.auditor, "--json")
    result = await broker_audit("verify", "demo", *arguments)
    assert result.exit_code == 1
    fault = finding(result)["fault"]
    assert (fault["seq"], fault["seal_no"], fault["event_id"]) == (7, 2, str(bad))
    assert "altered" in fault["reason"]


async def test_what_only_the_database_can_see_is_a_fault_too(log: Log) -> None:
    await sealed(log, 3)
    await tamper(
        log.owner,
        [
            (
                "INSERT INTO audit.events (tenant_id, type, actor, xid)"
                " VALUES ('demo', 'forged', 'x', '1')"
            )
        ],
    )
    result = await broker_audit("verify", "demo", "--database-url", log.dsns.auditor)
    assert result.exit_code == 1
    assert "inserted behind the sealer" in result.stdout


async def test_a_database_whose_functions_lie_is_found_out(log: Log) -> None:
    await sealed(log, 5)
    await tamper(log.owner, [EVENT.format(change="body = '{}  '", seq=3)])
    await log.owner.execute(
        "CREATE OR REPLACE FUNCTION audit.member_fault(s audit.seals, granted audit.seals,"
        " moved boolean, INOUT frontier bytea, INOUT chain bytea, INOUT last_xid xid8, INOUT"
        " retired bigint, INOUT late bigint, OUT seq bigint, OUT event_id uuid, OUT reason text)"
        " LANGUAGE sql AS $$ SELECT s.frontier, ''::bytea, NULL::xid8, 0::bigint, 0::bigint,"
        " NULL::bigint, NULL::uuid, NULL::text $$"
    )
    await log.owner.execute(
        "CREATE OR REPLACE FUNCTION audit.shape_fault() RETURNS text LANGUAGE sql AS"
        " $$ SELECT NULL::text $$"
    )
    assert (await log.verify())["ok"]
    result = await broker_audit("verify", "demo", "--database-url", log.dsns.auditor, "--json")
    assert result.exit_code == 1
    assert finding(result)["fault"]["seq"] == 3


async def test_nothing_to_check_is_exit_code_2(log: Log, tmp_path: Path) -> None:
    await sealed(log, 1)
    url = ("--database-url", log.dsns.auditor)
    assert (await broker_audit("verify", "other", *url)).exit_code == 2
    assert (await broker_audit("verify", "demo", *url, "--keys", tmp_path / "no")).exit_code == 2
    assert (await broker_audit("export", "other", *url)).exit_code == 2
    assert (await broker_audit("verify-bundle", tmp_path / "none")).exit_code == 2
    (tmp_path / "empty.ndjson").touch()
    empty = ("--anchors", tmp_path / "empty.ndjson")
    assert (await broker_audit("verify", "demo", *url, *empty)).exit_code == 2
    unreachable = "postgresql://x@127.0.0.1:1/x"
    assert (await broker_audit("verify", "demo", "--database-url", unreachable)).exit_code == 2


@pytest.fixture
async def bundle(log: Log, tmp_path: Path) -> Path:
    """A log of three seals, exported."""
    await log.append(2, body='{"note": "caf\u00e9  \\u0041", "n": 1.50}')
    await sealed(log, 4, 3, 5)
    path = tmp_path / "demo.ndjson"
    result = await broker_audit("export", "demo", "--database-url", log.dsns.auditor, "--out", path)
    assert result.exit_code == 0, result.output
    return path


async def test_a_bundle_is_verified_without_a_database(
    log: Log, bundle: Path, tmp_path: Path
) -> None:
    pinned = log.pem(tmp_path / "pinned.pem")
    anchors = await anchor_file(log, tmp_path / "anchors.ndjson")
    result = await broker_audit(
        "verify-bundle", bundle, "--keys", pinned, "--anchors", anchors, "--json"
    )
    assert result.exit_code == 0, result.output
    found = finding(result)
    assert (found["events"], found["seals"], found["anchors"]) == (14, 3, 3)
    assert (await broker_audit("verify-bundle", bundle)).exit_code == 0
    again = await broker_audit(
        "export", "demo", "--database-url", log.dsns.auditor, "--out", bundle
    )
    assert again.exit_code == 2, "nothing is overwritten"


async def test_a_range_is_verified_on_the_seal_before_it(log: Log, tmp_path: Path) -> None:
    await sealed(log, 4, 3, 5, 6)
    path = tmp_path / "part.ndjson"
    await broker_audit(
        "export",
        "demo",
        "--database-url",
        log.dsns.auditor,
        "--out",
        path,
        "--from-seal",
        "2",
        "--to-seal",
        "3",
    )
    pinned = log.pem(tmp_path / "pinned.pem")
    result = await broker_audit("verify-bundle", path, "--keys", pinned, "--json")
    assert result.exit_code == 0, result.output
    found = finding(result)
    assert (found["events"], found["seals"], found["size"]) == (8, 2, 12)
    lines = path.read_bytes().splitlines(keepends=True)
    base = next(line for line in lines if b'"line":"base"' in line)
    forged = orjson.loads(base)
    forged["frontier"] = forged["root"] = "00" * 32
    path.write_bytes(b"".join(lines).replace(base, orjson.dumps(forged) + b"\n"))
    assert (await broker_audit("verify-bundle", path, "--keys", pinned)).exit_code == 1


async def test_every_line_of_a_bundle_counts(log: Log, bundle: Path, tmp_path: Path) -> None:
    """Take each line away, exchange it with the next, and change each of its fields."""
    pinned = log.pem(tmp_path / "pinned.pem")
    lines = bundle.read_bytes().splitlines(keepends=True)
    changed = tmp_path / "changed.ndjson"
    for number, line in enumerate(lines):
        if b'"line":"key"' in line:
            continue  # pinned ones are used
        versions = [[*lines[:number], *lines[number + 1 :]]]
        if number + 1 < len(lines):
            after = lines[number + 1]
            versions.append([*lines[:number], after, line, *lines[number + 2 :]])
        versions += [[*lines[:number], made, *lines[number + 1 :]] for made in alterations(line)]
        for version in versions:
            changed.write_bytes(b"".join(version))
            result = await broker_audit("verify-bundle", changed, "--keys", pinned)
            differs = [one for one in version if one not in lines]
            assert result.exit_code in (1, 2), (number, differs)


def alterations(line: bytes) -> list[bytes]:
    """The line with each field of its seal or event altered."""
    found = orjson.loads(line)
    if found["line"] not in {"seal", "member"}:
        return []
    made: list[bytes] = []
    for place in (found, found.get("event") or {}):
        for name, value in list(place.items()):
            if name in {"line", "event"}:
                continue
            match value:
                case str():
                    place[name] = value[:-1] + ("0" if value[-1] != "0" else "1")
                case int():
                    place[name] = value + 1
                case _:
                    place[name] = "2026-01-01T00:00:00Z" if name == "retired_before" else "x"
            made.append(orjson.dumps(found) + b"\n")
            place[name] = value
    return made


async def test_a_rewritten_bundle_is_found_by_the_pinned_key_and_a_cut_one_by_anchors(
    log: Log, bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    keys.generate(tmp_path / "other.key", other)
    result = await broker_audit("verify-bundle", bundle, "--keys", other, "--json")
    assert result.exit_code == 1
    assert "not signed by a known key" in finding(result)["fault"]["reason"]
    anchors = await anchor_file(log, tmp_path / "anchors.ndjson")
    short = tmp_path / "short.ndjson"
    await broker_audit(
        "export", "demo", "--database-url", log.dsns.auditor, "--out", short, "--to-seal", "2"
    )
    assert (await broker_audit("verify-bundle", short)).exit_code == 0
    result = await broker_audit("verify-bundle", short, "--anchors", anchors, "--json")
    assert result.exit_code == 1
    assert "cut or rolled back" in finding(result)["fault"]["reason"]


async def test_keygen_makes_a_key_that_only_its_owner_reads_and_never_overwrites(
    tmp_path: Path,
) -> None:
    private = tmp_path / "seal.pem"
    result = await broker_audit("keygen", private, "--name", "broker.test/audit/demo")
    assert result.exit_code == 0
    assert private.stat().st_mode & 0o777 == 0o600
    made = keys.FileSigner.load(private)
    assert keys.load_public(tmp_path / "seal.pub.pem") == (made.public_key,)
    assert note.key_id_of(made.public_key) in result.stdout
    assert note.verifier_key("broker.test/audit/demo", made.public_key) in result.stdout
    before = private.read_bytes()
    assert (await broker_audit("keygen", private)).exit_code == 2
    assert private.read_bytes() == before


def test_a_pin_file_holds_several_keys_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        keys.generate(tmp_path / name, tmp_path / f"{name}.pub")
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "a.pub").read_bytes() + (tmp_path / "b.pub").read_bytes())
    assert len(keys.load_public(both)) == 2
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="no Ed25519 public key"):
        keys.load_public(empty)

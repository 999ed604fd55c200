"""The commands that AUDITORS.md shows, in its order, on a sealed log."""

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from app.cli import app as command_line
from tests.audit.conftest import LOG, Log
from tests.cli.test_audit import anchor_file
from tests.support.papers import commands, words

ADDRESSES = {"…", "postgresql://carol@db/broker"}


def shown() -> list[list[str]]:
    """Those of blocks, which are whole."""
    lines = [one.text for one in commands() if one.page == "docs/AUDITORS.md"]
    return [words(line)[1:] for line in lines[-8:]]


async def while_sealing(log: Log, argv: list[str]) -> Result:
    """Run a command beside a relay that seals."""
    env = {"MCP_BROKER_AUDIT_LOG": LOG, "MCP_BROKER_DATABASE_URL": log.dsns.retention}
    running = asyncio.create_task(
        asyncio.to_thread(CliRunner().invoke, command_line, argv, env=env)
    )
    while not (await asyncio.wait({running}, timeout=0.1))[0]:
        await log.seal()
    await log.seal()  # what it wrote last: a hold is released once that is sealed
    return await running


async def test_the_commands_of_auditors_and_officers_do_what_they_say(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await log.owner.execute("INSERT INTO tenants (tenant_id) VALUES ('acme')")
    await log.append(3)
    await log.append(2, tenant="acme")
    await log.seal()
    await log.owner.execute("INSERT INTO audit.auditors VALUES ('broker_auditor_login', 'demo')")
    log.pem(tmp_path / "pinned.pem")
    log.pem(tmp_path / "officers.pem", log.officer)
    (tmp_path / "officer.pem").write_bytes(
        log.officer.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    told = shown()
    assert {argv[1] for argv in told} == {
        *("retire-request", "retire", "hold", "release", "erase"),
        *("verify", "export", "verify-bundle"),
    }
    last = ""
    for argv in told:
        await anchor_file(log, tmp_path / "anchors.ndjson")
        given = {"HOLD": last, **dict.fromkeys(ADDRESSES, log.dsns.auditor)}
        done = await while_sealing(log, [given.get(word, word) for word in argv])
        assert done.exit_code == 0, f"docs/AUDITORS.md: {' '.join(argv)}: {done.output}"
        last = done.output.split()[-1] if done.output.split() else ""

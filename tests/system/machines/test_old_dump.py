"""The running stack's database is put back from an old dump: what is lost, and what goes on."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.audit import keys
from devstack.tokens import DevIssuer
from relay import anchors
from tests.cli.test_audit import broker_audit
from tests.conftest import AUDIENCE, settings_of
from tests.support.stack import wait_for
from tests.system.audit.test_restores import run
from tests.system.chaos.checks import look, results_of
from tests.system.chaos.fleet import Fleet, open_fleet, ready

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

WAIT_S: Final = 60
SEALED: Final = """
    SELECT coalesce(max(seal_no), 0) AS seal_no, (SELECT count(*) FROM outbox) AS left
      FROM audit.seals
     WHERE tenant_id = 'demo'
"""


async def ended(fleet: Fleet, *names: str) -> Mapping[str, str]:
    """Calls with these keys, ended; their ids."""
    token = fleet.issuer.token(tenant="demo", user="ada", scopes=["tools"])
    headers = {"Authorization": f"Bearer {token}"}
    found: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=fleet.urls[0], headers=headers, timeout=30) as http:
        for name in names:
            body = {"tool": "trial", "method": "again", "args": {"text": name, "ms": 0}}
            answer = await http.post(
                "/mcp/tools/call", json=body, headers={"Idempotency-Key": name}
            )
            assert answer.status_code in {200, 202}, answer.text
            found[name] = answer.json()["command_id"]

        async def all_ended() -> bool:
            states = [await state(http, one) for one in found.values()]
            return states == ["succeeded"] * len(states)

        await wait_for(all_ended, WAIT_S)
        return found


async def state(http: httpx.AsyncClient, one: str) -> str | None:
    """A command's state; None where it is not known."""
    answer = await http.get(f"/commands/{one}")
    if answer.status_code == 404:
        return None
    assert answer.status_code == 200, answer.text
    return answer.json()["state"]


async def published(fleet: Fleet, above: int = 0) -> int:
    """The newest seal, once it is in Kafka and nothing more is to be sealed or sent."""

    async def done() -> int:
        [row] = await look(fleet.dsns.owner, SEALED)
        return row["seal_no"] if row["seal_no"] > above and not row["left"] else 0

    return await wait_for(done, WAIT_S)


async def put_back(fleet: Fleet, dump: Path) -> None:
    """As an operator does: everything is stopped, and started on what the dump has."""
    for process in fleet.processes:
        process.kill()
    admin = await asyncpg.connect(fleet.postgres.dsn)
    await admin.execute(f'DROP DATABASE "{fleet.dsns.name}" WITH (FORCE)')
    await admin.execute(f'CREATE DATABASE "{fleet.dsns.name}"')
    await admin.close()
    argv = ("-d", fleet.dsns.owner, str(dump))
    await asyncio.to_thread(run, fleet.postgres, "pg_restore", *argv)
    for process in fleet.processes:
        await asyncio.to_thread(process.start)
    await asyncio.gather(*(asyncio.to_thread(ready, one) for one in fleet.apps))


@pytest.mark.guarantee("chaos:old-dump")
async def test_on_an_old_dump_calls_go_on_and_seals_wait_for_an_officer(
    home: Path, issuer: DevIssuer, tmp_path: Path
) -> None:
    officer, officers = tmp_path / "officer.pem", tmp_path / "officers.pem"
    keys.generate(officer, officers)
    dump = Path(f"/tmp/broker-{uuid4().hex}.dump")
    settings = {"RETENTION_KEYS": f'["{officers}"]'}
    url = AUDIENCE.removesuffix("/mcp")
    try:
        async with open_fleet(home, issuer, url, settings=settings) as fleet:
            kept = await ended(fleet, "kept-1", "kept-2")
            await published(fleet)
            argv = ("-Fc", "-f", str(dump), fleet.dsns.owner)
            await asyncio.to_thread(run, fleet.postgres, "pg_dump", *argv)
            before = await published(fleet)
            lost = await ended(fleet, "lost-1", "lost-2")
            await published(fleet, above=before)
            await put_back(fleet, dump)
            again = await ended(fleet, *kept, *lost)
            assert {name: again[name] for name in kept} == kept, "known, and not done again"
            assert not {*again.values()} & {*lost.values()}, "unknown, and accepted anew"
            heard = await results_of(fleet.kafka.bootstrap)
            assert all(heard[one] for one in [*lost.values(), *again.values()]), "told for good"
            [row] = await look(fleet.dsns.owner, SEALED)
            assert row["seal_no"] <= before, "nothing is sealed over what was published"
            logs = [(home / f"relay-{n}.log").read_text() for n in range(3)]
            assert any("nothing is sealed: seal" in log for log in logs)
            await accept(fleet, home, tmp_path, officer)
            await published(fleet, above=row["seal_no"])
            await verified(fleet, home, tmp_path, officers)
    finally:
        dump.unlink(missing_ok=True)


async def accept(fleet: Fleet, home: Path, folder: Path, officer: Path) -> None:
    """An officer signs for what is given up."""
    settings = settings_of(fleet.dsns.relay, fleet.issuer, kafka_bootstrap=fleet.kafka.bootstrap)
    await anchors.export(settings, folder / "anchors.ndjson")
    argv: tuple[Any, ...] = ("accept-restore", "--database-url", fleet.dsns.retention)
    argv += ("--key", officer, "--reason", "disk lost", "--anchors", folder / "anchors.ndjson")
    done = await broker_audit(*argv, "--keys", home / "seal.pub.pem")
    assert done.exit_code == 0, done.output


async def verified(fleet: Fleet, home: Path, folder: Path, officers: Path) -> None:
    """The log is whole, with every anchor that there is."""
    settings = settings_of(fleet.dsns.relay, fleet.issuer, kafka_bootstrap=fleet.kafka.bootstrap)
    await anchors.export(settings, folder / "later.ndjson")
    argv: tuple[Any, ...] = ("verify", "demo", "--database-url", fleet.dsns.owner)
    argv += ("--keys", home / "seal.pub.pem", "--retention-keys", officers)
    done = await broker_audit(*argv, "--anchors", folder / "later.ndjson", "--json")
    assert done.exit_code == 0, done.output

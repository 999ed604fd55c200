"""The whole path: MCP, Postgres, Kafka, Ansible and back."""

import asyncio
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devstack.demo import head_of
from tests.support.calls import fetch
from tests.support.stack import wait_for
from tests.system.e2e.conftest import World

CALLS = int(os.environ.get("MCP_BROKER_TEST_CALLS", "60"))

pytestmark = [pytest.mark.eda, pytest.mark.timeout(600)]


async def ended(http: httpx2.AsyncClient, correlation_id: str, timeout_s: float = 60) -> Any:
    async def final() -> Any:
        found = (await http.get(f"/commands/{correlation_id}")).json()
        return found if found.get("final") else None

    return await wait_for(final, timeout_s)


async def test_an_mcp_client_clones_a_repository_with_live_progress(world: World) -> None:
    said: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        said.append((progress, message))

    async with world.mcp() as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == sorted(names)
        assert {"git_clone", "git_delete", "command_status"} <= set(names)
        arguments = {"repo": str(world.repo), "dest": "one"}
        result = await client.call_tool("git_clone", arguments, progress_callback=heard)
    assert not result.is_error, result.content
    assert result.structured_content["head"] == head_of(str(world.repo))
    assert (Path(result.structured_content["path"]) / "README").read_text() == "hello\n"
    values = [value for value, _ in said]
    assert values == sorted(set(values)), "progress strictly increases"
    # Words that come fast are joined, so which of the adapter's stages is said varies.
    stages = {(message or "").partition(":")[0] for _, message in said}
    assert stages & {"checking", "cloning", "reporting"}


async def test_the_older_protocol_does_the_same(world: World) -> None:
    async with world.mcp(mode="legacy") as client:
        result = await client.call_tool("probe_echo", {"text": "old"})
    assert result.structured_content == {"text": "old"}


async def test_a_failing_clone_is_an_error_that_says_why(world: World) -> None:
    async with world.mcp() as client:
        result = await client.call_tool("git_clone", {"repo": "/nowhere/at/all", "dest": "bad"})
    assert result.is_error
    assert "does not exist" in str(result.content)
    assert not list(world.workspace.glob("_clones/*/.incoming/*")), "no half clone is left"


async def test_a_clone_is_deleted_again(world: World) -> None:
    async with world.http() as http:
        body: dict[str, Any] = {"tool": "git", "method": "clone"}
        body["args"] = {"repo": str(world.repo), "dest": "gone"}
        cloned = (await http.post("/mcp/tools/call", json=body)).json()
        path = Path(cloned["result"]["path"])
        assert path.exists()
        body = {"tool": "git", "method": "delete", "args": {"dest": "gone"}}
        deleted = (await http.post("/mcp/tools/call", json=body)).json()
    assert deleted["result"] == {"path": str(path), "deleted": True}
    assert not path.exists()


async def test_a_command_that_no_rule_takes_is_dead_lettered(world: World) -> None:
    await fetch(
        world.dsns.owner,
        "INSERT INTO tools (tool, method, name, description, input_schema, digest)"
        " VALUES ('probe', 'nowhere', 'probe_nowhere', 'x', '{\"type\": \"object\"}', '\\x00')",
    )

    async def known() -> bool:
        async with world.http() as http:
            body = {"tool": "probe", "method": "nowhere", "args": {}}
            answer = await http.post("/mcp/tools/call", json=body)
            return answer.status_code == 200 and answer.json()["state"] == "dead_lettered"

    assert await wait_for(known, 60)


@pytest.mark.guarantee("replicas:any")
async def test_a_result_at_one_replica_wakes_the_waiter_at_another(world: World) -> None:
    # EDA's adapters report to replica 0 only.
    async with world.http(replica=1) as http:
        body = {"tool": "probe", "method": "echo", "args": {"text": "across"}}
        answer = await http.post("/mcp/tools/call", json=body)
    assert (answer.status_code, answer.json()["result"]) == (200, {"text": "across"})


@pytest.mark.guarantee("stream:resumable")
async def test_events_are_streamed_and_resume_after_the_last_one_seen(world: World) -> None:
    async with world.http() as http:
        body: dict[str, Any] = {"tool": "git", "method": "clone"}
        body["args"] = {"repo": str(world.repo), "dest": "streamed"}
        call = await http.post("/mcp/tools/call", json=body, headers={"Prefer": "respond-async"})
        assert call.status_code == 202
        assert call.json()["note"] == "continuing async"
        url = call.json()["events_url"]
        whole = (await http.get(url)).text.strip().split("\n\n")
        assert [part.splitlines()[0] for part in whole] == ["event: progress"] * 3 + [
            "event: result"
        ]
        rest = (await http.get(url, headers={"Last-Event-ID": "2"})).text.strip().split("\n\n")
    assert rest == whole[2:]


@pytest.mark.guarantee("accepted:durable")
async def test_killing_the_app_right_after_accepted_loses_nothing(world: World) -> None:
    app = world.apps[1]
    async with world.http(replica=1) as http:
        accepted = [
            await http.post(
                "/mcp/tools/call",
                json={"tool": "probe", "method": "echo", "args": {"text": f"crash {n}"}},
                headers={"Prefer": "respond-async"},
            )
            for n in range(5)
        ]
    app.process.kill()
    await asyncio.to_thread(app.start)
    async with world.http(replica=1) as http:
        for n, call in enumerate(accepted):
            found = await ended(http, call.json()["correlation_id"])
            assert (found["state"], found["result"]) == ("succeeded", {"text": f"crash {n}"})


async def test_the_seeds_own_playbook_without_a_claim_works(world: World, tmp_path: Path) -> None:
    # A tool that no rule takes would be rejected, so it goes to EDA's blind side: delayed for long.
    await fetch(
        world.dsns.owner,
        "INSERT INTO tools (tool, method, name, description, input_schema, digest, in_flight_max)"
        " VALUES ('seed', 'clone', 'seed_clone', 'x', '{\"type\": \"object\"}', '\\x01', 1)",
    )
    fixture = Path(__file__).parent.parent / "eda" / "fixtures" / "seed_git_clone.yml"
    clone_to = tmp_path / "clone"
    async with world.http() as http:
        body: dict[str, Any] = {"tool": "seed", "method": "clone", "ordering_key": "seed"}
        body["args"] = {"repo": str(world.repo)}

        async def accepted() -> Any:
            headers = {"Prefer": "respond-async"}
            answer = await http.post("/mcp/tools/call", json=body, headers=headers)
            return answer.json() if answer.status_code == 202 else None

        # The first command is rejected by default_deadletter; while the playbook below speaks for
        # the second without a claim, it is only queued: the seed's adapter does not mind.
        await fetch(
            world.dsns.owner,
            "INSERT INTO ordering_heads (tenant_id, ordering_key, blocked_reason)"
            " VALUES ('demo', 'seed', 'held by the test')",
        )
        call = await wait_for(accepted, 20)
        event = {"body": {"correlation_id": call["correlation_id"], "args": body["args"]}}
        await fetch(
            world.dsns.owner,
            "UPDATE commands SET held = false WHERE id = $1",
            call["correlation_id"],
        )
        await asyncio.to_thread(run_seed, world, fixture, event, clone_to)
        found = await ended(http, call["correlation_id"])
    assert found["state"] == "succeeded"
    assert found["result"]["head"] == head_of(str(world.repo))


def run_seed(world: World, fixture: Path, event: Any, clone_to: Path) -> None:
    import json
    import sys

    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "-i",
            "localhost,",
            "-e",
            json.dumps(
                {
                    "ansible_eda": {"event": event},
                    "clone_to": str(clone_to),
                    "ansible_python_interpreter": sys.executable,
                }
            ),
            str(fixture),
        ],
        env={
            **os.environ,
            "MCP_BROKER_URL": world.apps[0].url,
            "MCP_BROKER_TOKEN": world.issuer.token(
                tenant="adapters", user="eda", scopes=["results:write"]
            ),
            "ANSIBLE_LOCALHOST_WARNING": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.guarantee("path:once")
async def test_many_concurrent_calls_end_once_each(world: World) -> None:
    async with world.mcp() as first, world.mcp(replica=1) as second:
        texts = [f"load {n}" for n in range(CALLS)]

        async def call(n: int) -> str:
            client = (first, second)[n % 2]
            result = await client.call_tool("probe_echo", {"text": texts[n]})
            assert not result.is_error, result.content
            found = result.structured_content
            if "command_id" in found:  # the wait ended first: exactly what command_status is for
                while not (
                    status := (
                        await client.call_tool(
                            "command_status", {"command_id": found["command_id"], "wait_s": 45}
                        )
                    ).structured_content
                )["final"]:
                    pass
                found = status["result"]
            return found["text"]

        assert await asyncio.gather(*(call(n) for n in range(CALLS))) == texts
    rows = await fetch(
        world.dsns.owner,
        "SELECT id, state, attempt FROM commands WHERE args ->> 'text' LIKE 'load %'",
    )
    assert Counter(row["state"] for row in rows) == {"succeeded": CALLS}
    effects = Counter(line.split()[0] for line in world.effects.read_text().splitlines())
    assert all(effects[str(row["id"])] == 1 for row in rows), "one effect a command"

    async def drained() -> bool:
        [left] = await fetch(world.dsns.owner, "SELECT count(*) AS n FROM outbox")
        return left["n"] == 0

    assert await wait_for(drained, 10)
    ends = await fetch(
        world.dsns.owner,
        "SELECT command_id, count(*) AS n FROM audit.events WHERE type = 'command.succeeded'"
        " AND command_id = ANY ($1) GROUP BY command_id",
        [row["id"] for row in rows],
    )
    assert {row["n"] for row in ends} == {1}
    assert len(ends) == CALLS

"""Scopes over HTTP: every route has its own, and what auditors and administrators see."""

import re
import uuid
from typing import Any

import pytest
from fastapi import FastAPI

from app.config import Settings
from app.edges.auth.scopes import SCOPES
from app.edges.guard import METADATA, PUBLIC, SCOPES_OF, Guard
from app.edges.http.fast_call import FastCall
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.edges.auth.conftest import serving
from tests.edges.conftest import auth

CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}


def routes(settings: Settings, broker: Parts) -> list[tuple[str, str]]:
    guard = build(settings, broker)
    assert isinstance(guard, Guard)
    assert isinstance(guard.app, FastCall)
    assert isinstance(guard.app.app, FastAPI)
    paths: dict[str, dict[str, Any]] = guard.app.app.openapi()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [("POST", "/mcp"), *found]


@pytest.mark.guarantee("identity:scopes")
async def test_every_route_refuses_a_token_without_its_scope(
    settings: Settings, broker: Parts, issuer: DevIssuer
) -> None:
    walked = 0
    async with serving(settings) as http:
        for method, path in routes(settings, broker):
            if path in PUBLIC or path.startswith(METADATA):
                continue
            needed = SCOPES_OF[path.split("/")[1]]
            wrong = [scope for scope in SCOPES if scope not in needed]
            there = re.sub(r"\{(correlation|command)_id\}", str(uuid.uuid4()), path)
            answer = await http.request(method, there, json={}, headers=auth(issuer, "ada", *wrong))
            assert answer.status_code == 403, f"{method} {path}: {answer.text}"
            assert f'scope="{needed[0]}"' in answer.headers["www-authenticate"]
            assert (await http.request(method, there, json={})).status_code == 401
            walked += 1
    assert walked > 15


@pytest.mark.guarantee("identity:scopes")
async def test_auditors_and_administrators_read_their_own_tenant(
    database: Dsns, issuer: DevIssuer
) -> None:
    ann = auth(issuer, "ann", "auditor")
    async with serving(settings_of(database.app, issuer)) as http:
        ids: list[str] = []
        for n in range(3):
            body = CALL | {"args": {"text": str(n)}}
            headers = auth(issuer, "ada") | {"Prefer": "respond-async"}
            made = await http.post("/mcp/tools/call", json=body, headers=headers)
            ids.append(made.json()["correlation_id"])
        await http.post("/mcp/tools/call", json=CALL | {"method": "x"}, headers=auth(issuer, "bob"))
        seen: list[str] = []
        query = {"type": "command.accepted", "user": "ada", "limit": 2}
        before: str | None = None
        while True:
            page = query if before is None else query | {"before": before}
            answer = (await http.get("/auditor/events", params=page, headers=ann)).json()
            seen += [one["command_id"] for one in answer["events"]]
            before = answer["before"]
            if before is None:
                break
        assert seen == ids[::-1]
        everything = (await http.get("/auditor/events", headers=ann)).json()["events"]
        assert {one["type"] for one in everything} == {"command.accepted", "call.denied"}
        story = (await http.get(f"/auditor/commands/{ids[0]}", headers=ann)).json()["history"]
        assert [one["what"] for one in story] == ["command.accepted"]
        bad = await http.get("/auditor/events", params={"before": "yesterday"}, headers=ann)
        assert bad.status_code == 400

        other = auth(issuer, "ann", "auditor", tenant="other")
        assert (await http.get("/auditor/events", headers=other)).json()["events"] == []
        answer = await http.get(f"/auditor/commands/{ids[0]}", headers=other)
        assert answer.status_code == 404

        root = await http.get("/admin/tenant", headers=auth(issuer, "root", "admin"))
        assert root.json()["tenant_id"] == "demo"
        assert root.json()["grants"][0]["pattern"] == "*"

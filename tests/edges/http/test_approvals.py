"""What waits for a person, as that person finds it: theirs to decide, and nothing else."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.approving import FOUR_EYES, SHIP, ship
from tests.support.calls import accept
from tests.support.offers import put

SECRET = {"type": "string", "x-sensitive": True}


async def found(http: httpx.AsyncClient, who: dict[str, str], **params: Any) -> list[Any]:
    answer = await http.get("/approvals", headers=who, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["approvals"]


@pytest.mark.guarantee("approval:inbox")
async def test_a_person_finds_what_waits_for_them_with_what_may_be_shown_of_it(
    http: httpx.AsyncClient, broker: Parts, database: Dsns, home: Path, issuer: DevIssuer
) -> None:
    schema = {"type": "object", "properties": {"dest": {}, "pin": SECRET}}
    grave = SHIP | {"input_schema": schema, "policy": {"approval": FOUR_EYES}}
    plain = SHIP | {"method": "sail", "name": "sail", "policy": {"approval": "operator"}}
    await put(database, home, {"tools": [grave, plain]}, broker=broker)
    theirs = (await accept(broker, ship("d", pin="hunter2"))).written.id
    sail = CallRequest(tool="grave", method="sail", args={"dest": "e"})
    operators = (await accept(broker, sail)).written.id
    fay, olga = auth(issuer, "fay", groups=("finance",)), auth(issuer, "olga", "operator")
    [one] = await found(http, fay)
    assert (one["command_id"], one["user"]) == (str(theirs), "ada")
    assert one["args"]["dest"] == "d"
    assert "hunter2" not in str(one)
    assert one["waiting_for"] == "waits for 2 of group finance, not the caller"
    assert [each["command_id"] for each in await found(http, olga)] == [str(operators)]
    assert await found(http, auth(issuer, "max", groups=("managers",))) == []
    assert await found(http, auth(issuer, "fay", tenant="other", groups=("finance",))) == []
    assert await found(http, fay, before=str(theirs)) == []
    said = await http.post(f"/commands/{theirs}/deny", json={"reason": "no"}, headers=fay)
    assert said.json()["error"] == {"code": "denied", "message": "no"}
    assert await found(http, fay) == []


@pytest.mark.guarantee("approval:approvers")
async def test_who_may_not_decide_is_refused_over_http(
    http: httpx.AsyncClient, broker: Parts, database: Dsns, home: Path, issuer: DevIssuer
) -> None:
    tool = SHIP | {"policy": {"approval": FOUR_EYES}}
    await put(database, home, {"tools": [tool]}, broker=broker)
    one = (await accept(broker, ship())).written.id
    rows: tuple[tuple[str, dict[str, Any], int], ...] = (
        ("ada", {}, 403),
        ("bob", {}, 404),
        ("bob", {"groups": ("Finance", "finance ")}, 404),
        ("bob", {"groups": ("finance",), "tenant": "other"}, 404),
        ("fay", {"groups": ("finance",)}, 200),
    )
    for path in ("approve", "deny"):
        for user, claims, status in rows:
            if path == "deny" and status == 200:
                continue
            answer = await http.post(
                f"/commands/{one}/{path}",
                json={"reason": "r"},
                headers=auth(issuer, user, **claims),
            )
            assert answer.status_code == status, (path, user, answer.text)
    route = f"/operator/commands/{one}/approve"
    answer = await http.post(
        route, json={"reason": "r"}, headers=auth(issuer, "fay", groups=("finance",))
    )
    assert answer.status_code == 403  # that one needs the operator's scope

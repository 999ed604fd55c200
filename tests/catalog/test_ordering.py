"""Calls on one thing share an ordering key, whichever of a tool's methods they call."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from app.catalog import file as catalog_file
from app.catalog.file import SHIPPED, CatalogFile, ToolEntry
from app.catalog.ordering import KEY_MAX, derived
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from app.postgres import migrate
from devstack.stack import Dsns
from tests.support.calls import accept, claim, fetch, finish

PLACES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "host": {"type": "string"},
        "port": {"type": "integer", "default": 80},
        "path": {},
    },
}


def service(method: str, name: str = "web") -> CallRequest:
    more = {"settings": {"size": "big"}} if method == "configure" else {}
    return CallRequest(tool="service", method=method, args={"name": name, "owner": "o", **more})


def entry(method: str, **policy: Any) -> dict[str, Any]:
    made = {"tool": "place", "method": method, "description": "A place.", "input_schema": PLACES}
    return made | {"policy": policy}


def key_of(args: dict[str, Any], **policy: Any) -> str | None:
    return ToolEntry.model_validate(entry("put", **policy)).made().key_of(args, hidden=False)


@pytest.mark.guarantee("ordering:shared")
@pytest.mark.parametrize("after", ["configure", "enable", "deprovision"])
async def test_a_call_of_another_method_waits_for_the_one_before_it(
    broker: Parts, database: Dsns, after: str
) -> None:
    first = (await accept(broker, service("provision"))).written.id
    second = (await accept(broker, service(after))).written.id
    elsewhere = (await accept(broker, service(after, "mail"))).written.id
    held = {row["id"]: row["held"] for row in await fetch(database.owner, "SELECT * FROM commands")}
    assert held == {first: False, second: True, elsewhere: False}
    assert not (await claim(broker, second)).proceed
    assert (await claim(broker, first)).proceed
    await finish(broker, first, result={"path": "p", "head": "h"})
    assert (await claim(broker, second)).proceed


@pytest.mark.guarantee("ordering:shared")
async def test_several_arguments_make_one_key(broker: Parts, database: Dsns) -> None:
    both = [entry(one, ordering_key=["host", "port"]) for one in ("put", "take")]
    file = CatalogFile.model_validate({"tools": both})
    async with migrate.connected(database.owner) as engine:
        await catalog_file.apply(engine, file, prune=False)
    broker.catalog.forget()
    held: list[bool] = []
    for method, args in (
        ("put", {"host": "a", "port": 81}),
        ("take", {"host": "a", "port": 80}),
        ("put", {"host": "a"}),
        ("put", {"host": "b"}),
    ):
        call = CallRequest(tool="place", method=method, args=args)
        made = (await accept(broker, call)).written.id
        [row] = await fetch(database.owner, "SELECT held FROM commands WHERE id = $1", made)
        held.append(row["held"])
    assert held == [False, False, True, False]


def test_the_shipped_methods_share_a_key_where_they_work_on_one_thing() -> None:
    made = {one.made().name: one.made() for one in catalog_file.parse(SHIPPED).tools}
    on_one = [tool for name, tool in made.items() if name.startswith("service_")]
    assert len(on_one) >= 6
    assert {tool.key_of({"name": "web"}, hidden=False) for tool in on_one} == {"service:web"}
    clone, delete = (
        made[name].key_of({"dest": "d"}, hidden=False) for name in ("git_clone", "git_delete")
    )
    assert clone == delete


def test_a_policy_may_keep_its_methods_apart() -> None:
    assert key_of({"host": "a"}, ordering_key="host") == "place:a"
    assert key_of({"host": "a"}, ordering_key="host", ordering_scope="method") == "place/put:a"
    assert key_of({"host": "a"}) is None
    assert key_of({"host": "a"}, ordering_key=None) is None


def test_alike_arguments_have_one_key_and_others_another() -> None:
    def of(*named: str, **args: Any) -> str | None:
        return derived("s", named, args, PLACES, hidden=False)

    assert of("path", path={"a": 1, "b": 2}) == of("path", path={"b": 2, "a": 1.0})
    assert of("host", "port", host="a") == of("host", "port", host="a", port=80)
    assert of("host", "path", host="a") != of("host", "path", path="a")
    assert of("host", "path", host="a,b", path="c") != of("host", "path", host="a", path="b,c")
    assert of("host") is None
    assert of("host", "path") is None
    long = [of("host", "path", host="h" * 400, path=one) for one in ("a", "b")]
    assert len(set(long)) == len(long)
    assert all(one is not None and len(one) <= KEY_MAX for one in long)


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ([entry("put", ordering_key="hots")], "'hots' is no argument"),
        ([entry("put", ordering_key=["host", "hots"])], "'hots' is no argument"),
        (
            [entry("put", ordering_key="host"), entry("take", ordering_key=["host", "port"])],
            "different numbers",
        ),
    ],
)
def test_a_key_that_would_order_nothing_is_refused(
    tools: list[dict[str, Any]], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=problem):
        CatalogFile.model_validate({"tools": tools})
    file = tmp_path / "catalog.yml"
    file.write_text(yaml.safe_dump({"tools": tools}))
    with pytest.raises(catalog_file.BadRequestError, match=problem):
        catalog_file.parse(file)

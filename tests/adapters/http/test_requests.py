"""What a call's arguments become on the wire, as a server sees it."""

import json
from typing import Any

import pytest

from adapters.contract import Failure, Outcome, Result
from adapters.kinds import Adapters, check
from adapters.targets import Target
from tests.adapters.executor import Heard, call_of
from tests.adapters.http.conftest import SECRET, Server


def done(outcome: Outcome) -> Any:
    assert isinstance(outcome, Result), outcome
    return outcome.value


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


async def test_a_template_becomes_a_request(adapters: Adapters, server: Server) -> None:
    mapping = {
        "method": "post",
        "path": "/repos/{owner}/x{{}}-{repo.name}",
        "query": {"page": "{page}", "absent": "{absent}", "tags": "{tags}", "v": 1},
        "headers": {"X-Mode": "of {owner}", "X-Absent": "{absent}"},
        "body": {"title": "{title}", "n": "{page}", "all": "{repo}", "list": ["{absent}", "a"]},
    }
    args = {
        "owner": "a/b c?#%é",
        "repo": {"name": "r", "deep": [1, None]},
        "page": 2,
        "tags": ["x&y", "z"],
        "title": 'q"🦜',
    }
    assert not check(server.target(), mapping)
    args_with_plain_header = args | {"owner": "a/b c?#%"}
    call = call_of(
        server.target(), args=args_with_plain_header, mapping=mapping, traceparent="00-a-b-01"
    )
    seen = done(await adapters.run(call, Heard()))
    assert (seen["method"], seen["path"]) == ("POST", "/repos/a%2Fb%20c%3F%23%25/x%7B%7D-r")
    assert seen["query"] == "page=2&tags=x%26y&tags=z&v=1"
    assert seen["headers"]["x-mode"] == "of a/b c?#%"
    assert "x-absent" not in seen["headers"]
    assert json.loads(seen["body"]) == {
        "title": 'q"🦜',
        "n": 2,
        "all": {"name": "r", "deep": [1, None]},
        "list": ["a"],
    }
    assert seen["headers"]["idempotency-key"] == "key-1"
    assert seen["headers"]["traceparent"] == "00-a-b-01"


@pytest.mark.guarantee("adapters:no-way-out")
@pytest.mark.parametrize(
    ("place", "args"),
    [
        ("/a/{x}", {"x": ".."}),
        ("/a/{x}", {"x": "."}),
        ("/a/{x}", {"x": "../../admin"}),
        ("/a/{x}/b", {"x": "..\\.."}),
        ("/a/b{x}", {"x": "/../c"}),
        ("/a/.{x}/b", {"x": "."}),
        ("/a/{x}", {"x": ""}),
        ("/a/{x}", {}),
        ("/a/{x}", {"x": "\ud800"}),
    ],
)
async def test_no_argument_leads_to_another_path(
    adapters: Adapters, server: Server, place: str, args: dict[str, Any]
) -> None:
    call = call_of(server.target(), args=args, mapping={"method": "GET", "path": place})
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.code, outcome.retryable) == ("invalid_arguments", False)
    assert not server.seen


@pytest.mark.guarantee("adapters:no-way-out")
@pytest.mark.parametrize("value", ["a\r\nx-admin: 1", "nul\0", "é"])
async def test_no_argument_ends_a_header(adapters: Adapters, server: Server, value: str) -> None:
    mapping = {"method": "GET", "path": "/", "headers": {"X-A": "{x}"}}
    call = call_of(server.target(), args={"x": value}, mapping=mapping)
    assert failed(await adapters.run(call, Heard())).code == "invalid_arguments"
    assert not server.seen


COLOURS: dict[str, Any] = {"list": ["blue", "bl ack"], "object": {"R": 100, "G": 200}, "one": "b&"}


@pytest.mark.parametrize(
    ("given", "argument", "expected"),
    [
        # As the table of styles in OpenAPI 3.1.1 has them, with what must be quoted quoted.
        ({"in": "query"}, "list", "?c=blue&c=bl%20ack"),
        ({"in": "query", "explode": False}, "list", "?c=blue,bl%20ack"),
        ({"in": "query"}, "object", "?R=100&G=200"),
        ({"in": "query", "explode": False}, "object", "?c=R,100,G,200"),
        ({"in": "query"}, "one", "?c=b%26"),
        ({"in": "query", "allow_reserved": True}, "one", "?c=b&"),
        (
            {"in": "query", "style": "spaceDelimited", "explode": False},
            "list",
            "?c=blue%20bl%20ack",
        ),
        ({"in": "query", "style": "pipeDelimited", "explode": False}, "list", "?c=blue|bl%20ack"),
        ({"in": "query", "style": "deepObject"}, "object", "?c[R]=100&c[G]=200"),
        ({"in": "query", "json": True}, "object", "?c=%7B%22R%22%3A100%2C%22G%22%3A200%7D"),
        ({"in": "path"}, "list", "/blue,bl%20ack"),
        ({"in": "path"}, "object", "/R,100,G,200"),
        ({"in": "path", "explode": True}, "object", "/R=100,G=200"),
        ({"in": "path", "style": "label"}, "list", "/.blue,bl%20ack"),
        ({"in": "path", "style": "label", "explode": True}, "list", "/.blue.bl%20ack"),
        ({"in": "path", "style": "matrix"}, "list", "/;c=blue,bl%20ack"),
        ({"in": "path", "style": "matrix", "explode": True}, "list", "/;c=blue;c=bl%20ack"),
        ({"in": "path", "style": "matrix", "explode": True}, "object", "/;R=100;G=200"),
        ({"in": "header"}, "object", "R,100,G,200"),
        ({"in": "header", "explode": True}, "object", "R=100,G=200"),
        ({"in": "cookie"}, "one", "c=b%26"),
    ],
)
async def test_parameters_are_written_in_their_style(
    adapters: Adapters, server: Server, given: dict[str, Any], argument: str, expected: str
) -> None:
    path = "/{c}" if given["in"] == "path" else "/"
    mapping = {"method": "GET", "path": path, "parameters": [given | {"name": "c", "arg": "a"}]}
    assert not check(server.target(), mapping)
    call = call_of(server.target(), args={"a": COLOURS[argument]}, mapping=mapping)
    seen = done(await adapters.run(call, Heard()))
    shown = {
        "query": "?" + seen["query"].replace("%5B", "[").replace("%5D", "]").replace("%7C", "|"),
        "path": seen["path"],
        "header": seen["headers"].get("c"),
        "cookie": seen["headers"].get("cookie"),
    }
    assert shown[given["in"]] == expected


async def test_bodies_of_every_media_type(adapters: Adapters, server: Server) -> None:
    async def sent(kind: str, body: Any, **mapping: Any) -> dict[str, Any]:
        given = {"method": "PUT", "path": "/", "body": "{b}", "content_type": kind} | mapping
        call = call_of(server.target(), args={"b": body}, mapping=given)
        return done(await adapters.run(call, Heard()))

    form = await sent("application/x-www-form-urlencoded", {"a": "b c", "l": [1, 2], "o": {"x": 1}})
    assert form["body"] == "a=b%20c&l=1&l=2&o=%7B%22x%22%3A1%7D"
    assert (await sent("text/plain; charset=utf-8", "hellö"))["body"] == "hellö"
    assert (await sent("application/octet-stream", "AP8="))["body"] == "\0\\xff"
    assert (await sent("application/merge-patch+json", {"a": None}))["body"] == '{"a":null}'
    parts = await sent(
        "multipart/form-data",
        {"meta": {"n": 1}, "files": ["aGk=", "eW8="], "name": "x"},
        encoding={"files": {"file": True, "content_type": "image/png"}},
    )
    assert parts["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    assert 'name="meta"\r\nContent-Type: application/json\r\n\r\n{"n":1}' in parts["body"]
    assert parts["body"].count('name="files"; filename="files"\r\nContent-Type: image/png') == 2
    assert 'name="name"\r\nContent-Type: text/plain\r\n\r\nx\r\n' in parts["body"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/octet-stream", "no base64!"), ("multipart/form-data", "x")],
)
async def test_a_body_that_is_none_is_refused(
    adapters: Adapters, server: Server, kind: str, body: str
) -> None:
    mapping = {"method": "PUT", "path": "/", "body": "{b}", "content_type": kind}
    call = call_of(server.target(), args={"b": body}, mapping=mapping)
    assert failed(await adapters.run(call, Heard())).code == "invalid_arguments"
    assert not server.seen


@pytest.mark.guarantee("adapters:masked")
async def test_credentials_go_along_and_do_not_come_back(
    adapters: Adapters, server: Server
) -> None:
    import base64

    basic = {"type": "basic", "username": "ada", "password": "env:PASSWORD"}
    mapping = {"method": "POST", "path": "/x", "body": {"quoted": SECRET}}
    call = call_of(server.target(credential=basic), mapping=mapping)
    outcome = await adapters.run(call, Heard())
    coded = base64.b64encode(f"ada:{SECRET}".encode()).decode()
    assert server.seen[0]["headers"]["authorization"] == f"Basic {coded}"
    value = done(outcome)
    assert value["headers"]["authorization"] == "Basic [redacted]"
    assert value["body"] == '{"quoted":"[redacted]"}'
    for credential, header in (
        ({"type": "bearer", "token": "env:TOKEN"}, ("authorization", "Bearer t0ken-t0ken")),
        (
            {"type": "header", "name": "X-Api-Key", "value": "env:TOKEN"},
            ("x-api-key", "t0ken-t0ken"),
        ),
    ):
        call = call_of(server.target(credential=credential), mapping={"method": "GET", "path": "/"})
        value = done(await adapters.run(call, Heard()))
        assert server.seen[-1]["headers"][header[0]] == header[1]
        assert "t0ken" not in str(value)


async def test_without_its_credential_nothing_is_sent(adapters: Adapters, server: Server) -> None:
    target = server.target(credential={"type": "bearer", "token": "env:NONE"})
    call = call_of(target, mapping={"method": "GET", "path": "/"})
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.code, outcome.retryable) == ("credential_unavailable", True)
    assert not server.seen


def test_what_a_mapping_and_a_target_may_not_say_is_told() -> None:
    good = {"method": "GET", "path": "/"}
    target = Target(name="t", kind="http", address="https://api.example/v1")
    assert not check(target, good)
    for wrong in (
        {"method": "FETCH"},
        {"path": "x"},
        {"path": "/{"},
        {"path": "/?a=1"},
        {"query": []},
        {"headers": {"Host": "x"}},
        {"headers": {"X-A": "{"}},
        {"colour": 1},
        {"statuses": {"abc": "done"}},
        {"statuses": {"404": "odd"}},
        {"poll": {"odd": 1}},
        {"parameters": [{"name": "a", "in": "space"}]},
        {"parameters": [{"name": "a", "in": "path", "style": "form"}]},
        {"result": "all"},
    ):
        assert len(check(target, good | wrong)) == 1, wrong
    for field in (
        {"address": "ftp://x"},
        {"address": "https://u:p@x"},
        {"address": "https://x/?a=1"},
        {"credential": {"type": "magic"}},
        {"credential": {"type": "bearer"}},
        {"credential": {"type": "bearer", "token": "env:A", "odd": 1}},
        {"options": {"odd": 1}},
    ):
        given = {"name": "t", "kind": "http", "address": "https://x"} | field
        assert len(check(Target.read(given), good)) == 1, field

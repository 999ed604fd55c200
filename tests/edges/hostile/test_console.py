"""Every form and every filter of the console, with what a hostile sender writes there.

Answered in bound, as a page; never with a 5xx; nothing is shown but as text; what was refused left
nothing behind; and a form of no page of the session's does nothing, whatever else it says.
"""

import asyncio
import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_from_bytes, quote_plus
from uuid import UUID, uuid4

import pytest
from fastapi.routing import APIRoute

from app.console import sign_in
from app.console.links import Links
from app.console.pages import PAGES, approval
from app.console.parts import Console
from app.console.sessions import Sessions
from app.console.templating import environment
from devstack.tokens import console_link
from tests.conftest import AUDIENCE
from tests.edges.hostile.draws import turns
from tests.edges.hostile.forms import FORMS, NOT_TAKEN
from tests.edges.hostile.rounds import Asked, Good, Headers, Place, one_round
from tests.edges.hostile.values import Value, of
from tests.edges.hostile.wire import Answer
from tests.edges.hostile.world import Served, World

pytestmark = pytest.mark.thorough

URL: Final = AUDIENCE.removesuffix("/mcp")
PAGE_MAX: Final = 400_000
NOWHERE: Final = Place(kind="nowhere", at=())
RELEASED: Final = "UPDATE holds SET released_at = now() WHERE released_at IS NULL"
NOTHING: Final = Value(written=b"null")
SCRIPT: Final = of("</textarea></pre>'\"><script>alert(1)</script><img src=x onerror=alert(1)>")
FIELDS_SHOWN: Final = re.compile(rb"<(script>|img )[^>]*alert")


@dataclass(frozen=True, slots=True)
class Form:
    """A form of the console, or a page with its filter."""

    name: str
    session: str
    origin: str

    def asked(self, good: Good, place: Place, value: Value, subject: str, key: str) -> Asked:
        method, _, path = self.name.partition(" ")
        ids = dict.fromkeys(("call_id", "saga_id", "hold_id", "event_id"), subject)
        for name, said in {**ids, **good.path}.items():
            here = place == Place(kind="path", at=(name,))
            path = path.replace("{" + name + "}", quoted(value) if here else said)
        csrf = hmac.digest(self.session.encode(), b"csrf", "sha256").hex()
        fields = {"csrf": csrf} if method == "POST" else {}
        fields |= good.body
        written = "&".join(
            f"{name}={quoted(value)}"
            if place == Place(kind="field", at=(name,))
            else f"{name}={quote_plus(said.replace('{id}', subject).replace('{key}', key))}"
            for name, said in fields.items()
        )
        if place.kind == "extra":
            written += f"&surprise={quoted(value)}"
        if place.kind == "name":
            written += f"&{quoted(value)}=x"
        headers: Headers = [
            (b"accept", b"text/html"),
            (b"cookie", f"mcpbroker_console={self.session}".encode()),
        ]
        if place.kind == "cookie":
            said = bytes(one for one in value.bare if 32 < one < 127 and one != ord(";"))
            headers[1] = (b"cookie", b"mcpbroker_console=" + said)
        if method == "GET":
            url = f"{path}?{written}" if written else path
            return Asked(method=method, path=url, headers=headers, body=None)
        headers += [
            (b"origin", self.origin.encode()),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ]
        return Asked(method=method, path=path, headers=headers, body=written.encode())

    def refusal(self, answer: Answer) -> str | None:
        return str(answer.status) if answer.status >= 400 else None

    def made(self, answer: Answer) -> str | None:
        if self.name != "POST /console/tools/hold":
            return None
        found = re.search(r'id="hold">([0-9a-f-]{36})<', answer.text)
        return None if found is None else found[1]

    def kept(self, place: Place) -> None:
        del place  # a form is no JSON; what is kept of it, its pages' tests compare

    def well_formed(self, answer: Answer, shown: str) -> None:
        assert answer.status in {200, 303, *range(400, 500)}, (
            f"{answer.status} {answer.text[:500]}: {shown}"
        )
        assert "content-security-policy" in answer.headers, shown
        if answer.status == 303:
            assert answer.headers["location"].startswith("/console"), shown
            return
        assert len(answer.content) < PAGE_MAX, f"{len(answer.content)} bytes: {shown}"
        if answer.headers["content-type"].startswith("text/html"):
            assert not FIELDS_SHOWN.search(answer.content), f"not as text: {shown}"


def quoted(value: Value) -> str:
    """Every byte as %XX; nothing at all would be another path."""
    return quote_from_bytes(value.bare, safe="") or "%20"


def places(name: str, good: Good) -> Iterator[Place]:
    """Where in it a value can stand."""
    for one in good.body:
        yield Place(kind="field", at=(one,))
    for one in re.findall(r"{(\w+)}", name):
        yield Place(kind="path", at=(one,))
    yield Place(kind="extra", at=())
    yield Place(kind="name", at=())
    yield Place(kind="cookie", at=())
    if name.startswith("POST"):
        yield Place(kind="field", at=("csrf",))


@pytest.fixture
async def session(served: Served, world: World) -> str:
    """Somebody's who may do everything, by a link."""
    link = console_link(served.issuer, URL, tenant="demo", user="ada")
    token = link.partition("token=")[2]
    answer = await world.http.ask(
        "POST",
        "/console/sign-in/link",
        [
            (b"origin", origin(served).encode()),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ],
        f"token={token}".encode(),
    )
    assert answer.status == 303, answer.text
    return answer.headers["set-cookie"].partition("=")[2].partition(";")[0]


def origin(served: Served) -> str:
    return f"http://127.0.0.1:{served.app.port}"


@pytest.mark.guarantee("hostile:answered")
async def test_every_route_of_the_console_has_a_form_here(world: World) -> None:
    settings = world.broker.settings
    assert settings.console_links is not None
    console = Console(
        broker=world.broker,
        templates=environment(),
        sessions=Sessions(world.broker.database.engine, settings),
        openid=None,
        links=Links(settings, settings.console_links),
        pages=PAGES,
    )
    routers = {"": sign_in.router(console), approval.PATH: approval.router(console)}
    routers |= {one.url: one.router(console) for one in PAGES}
    found = {
        f"{method} {prefix}{one.path}"
        for prefix, router in routers.items()
        for one in router.routes
        if isinstance(one, APIRoute)
        for method in one.methods or ()
    }
    assert {one for one in found if not one.endswith("/live")} | FIRST == FORMS.keys()


FIRST: Final = {"GET /console", "GET /console/"}


@pytest.mark.guarantee("hostile:answered")
@pytest.mark.parametrize("name", FORMS)
async def test_what_stands_in_a_form_is_taken_or_refused_and_shown_as_text(
    served: Served, world: World, session: str, name: str
) -> None:
    drawn = turns(name)
    if "/hold" in name:  # a tenant has so many at the most
        await world.owner.execute(RELEASED)
    for good in FORMS[name]:
        form = Form(name, session, origin(served))
        await plain(world, form, good)
        for place, (turn, rounds) in zip(places(name, good), drawn, strict=False):
            for values in rounds:
                tried: Mapping[str, Value] = {**values, "a script": SCRIPT}
                await one_round(world, form, good, place, tried, turn)
    await world.neighbour("after")


async def plain(world: World, form: Form, good: Good) -> None:
    """Each is taken, but for what is hostile in it."""
    about = uuid4() if good.about is None else await good.about(world)
    asked = form.asked(good, NOWHERE, NOTHING, str(about), str(uuid4()))
    answer = await world.http.ask(asked.method, asked.path, asked.headers, asked.body)
    form.well_formed(answer, form.name)
    assert (form.refusal(answer) is None) == (form.name not in NOT_TAKEN), answer.text


@pytest.mark.guarantee("console:forged")
async def test_no_form_does_anything_from_another_origin_or_in_another_shape(
    served: Served, world: World, session: str
) -> None:
    strange: list[dict[bytes, bytes | None]] = [
        {b"origin": None},
        {b"origin": b"null"},
        {b"origin": b"http://evil.example"},
        {b"sec-fetch-site": b"cross-site"},
        {b"content-type": b"application/json"},
        {b"content-type": b"multipart/form-data; boundary=x"},
        {b"content-type": b"text/plain"},
        {b"cookie": b"mcpbroker_console=demo.x"},
        {b"cookie": None},
    ]
    for name in (one for one in FORMS if one.startswith("POST") and "/sign-in/" not in one):
        for good in FORMS[name]:
            since = await world.now()
            subject: UUID = uuid4() if good.about is None else await good.about(world)
            before = await world.rows(since)
            form = Form(name, session, origin(served))
            asked = form.asked(good, NOWHERE, NOTHING, str(subject), str(uuid4()))
            answers = await asyncio.gather(
                *(world.http.ask("POST", asked.path, changed(asked, one), asked.body)
                  for one in strange)
            )  # fmt: skip
            for answer, one in zip(answers, strange, strict=True):
                signs_out = name.endswith("/sign-out") and b"cookie" in one
                assert answer.status in {400, 401, 403} or signs_out, (name, one, answer.text)
            assert await world.rows(since) == before, name


def changed(asked: Asked, more: Mapping[bytes, bytes | None]) -> Headers:
    kept: Any = {**dict(asked.headers), **more}
    return [(name, said) for name, said in kept.items() if said is not None]

"""Addresses and fields that nobody's browser makes are answered in words, as a page."""

import pytest

from app.edges.parts import Parts
from devstack.tokens import DevIssuer
from tests.console.conftest import send, signed_in

pytestmark = pytest.mark.guarantee("hostile:answered")

PLAIN = 200
REFUSED = 400


@pytest.mark.parametrize("page", ["http://[", "//[x", "//\uff03@x", "/console/\ud800"])
async def test_a_page_to_go_on_to_that_is_no_address_is_the_first(
    broker: Parts, issuer: DevIssuer, page: str
) -> None:
    async with signed_in(broker, issuer) as olga:
        written = page.encode(errors="surrogatepass")
        quoted = "".join(f"%{one:02X}" for one in written)
        answer = await olga.get(f"/console/sign-in?page={quoted}")
    assert answer.status_code == PLAIN, answer.text


@pytest.mark.parametrize("version", ["0" * 19 + "1" + "9" * 30, "0" * 19 + "1" + "9" * 6000, "²"])
async def test_a_version_of_many_digits_is_no_version(
    broker: Parts, issuer: DevIssuer, version: str
) -> None:
    async with signed_in(broker, issuer) as olga:
        answer = await send(olga, "/console/sagas/plan", name="known", version=version)
    assert answer.status_code == REFUSED
    assert "A version is a number from 1." in answer.text


@pytest.mark.parametrize("path", ["", "/live"])
async def test_a_live_view_is_refused_as_its_page_is(
    broker: Parts, issuer: DevIssuer, path: str
) -> None:
    async with signed_in(broker, issuer) as olga:
        answer = await olga.get(f"/console/inbox{path}?after=x")
    assert answer.status_code == REFUSED
    assert "give kind with after" in answer.text

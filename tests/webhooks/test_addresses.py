"""Nothing goes where it may not, whatever a name means and whenever it means it."""

import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from app.edges.parts import Parts
from app.webhooks.addresses import BadUrlError, place_of, refusal
from relay.posting import Poster, PostFailedError
from tests.support.pki import Authority
from tests.support.stack import wait_for
from tests.webhooks.conftest import Hooks
from tests.webhooks.receivers import receiving
from tests.webhooks.test_delivery import deliveries, ended

PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.3.4",
    "192.168.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:db8::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]
PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e")


@pytest.mark.guarantee("webhooks:addresses")
def test_addresses_that_are_not_everybodys_are_refused() -> None:
    for text in PRIVATE:
        assert refusal(ip_address(text), https=True, allowed=()), text
    for text in PUBLIC:
        assert refusal(ip_address(text), https=True, allowed=()) is None, text
        assert refusal(ip_address(text), https=False, allowed=()), "http is for named networks"
    mine = (ip_network("10.1.0.0/16"),)
    assert refusal(ip_address("10.1.2.3"), https=False, allowed=mine) is None
    assert refusal(ip_address("10.2.2.3"), https=True, allowed=mine)
    assert refusal(ip_address("::ffff:10.1.2.3"), https=True, allowed=mine), "named as it is"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "//example.org/",
        "https://",
        "https:///path",
        "https://user:secret@example.org/",
        "https://example.org/#part",
        "https://example.org:0/",
        "https://example.org:65536/",
        "https://example.org:x/",
        "https://exämple.org/",
        "https://example.org/a b",
        "https://example.org/\r\nHost: other",
        "https://example.org/\0",
        "https://[::1/",
        "https://[fe80::1%25eth0]/",
        "https://example.org\\@other.org/",
        "https://example.org/{{x}}",
        "https://" + "a" * 254 + ".org/",
        "https://example.org/" + "a" * 2048,
    ],
)
async def test_a_url_of_another_form_is_refused_and_leaves_nothing(hooks: Hooks, url: str) -> None:
    with pytest.raises(BadUrlError):
        place_of(url)
    async with hooks.operator() as http:
        body = {"url": url, "events": ["command.ended"]}
        answer = await http.post("/operator/webhooks", json=body)
        assert answer.status_code in {400, 422}, answer.text
        assert (await http.get("/operator/webhooks")).json() == {"webhooks": []}


@pytest.mark.guarantee("webhooks:addresses")
async def test_what_is_refused_by_its_address_is_refused_when_it_is_written_too(
    hooks: Hooks,
) -> None:
    async with hooks.operator() as http:
        for url in ("https://169.254.169.254/latest", "https://[::1]/", "http://10.0.0.1/"):
            answer = await http.post(
                "/operator/webhooks", json={"url": url, "events": ["command.ended"]}
            )
            assert answer.status_code == 422, url
            assert answer.json()["code"] == "invalid_arguments"


@pytest.mark.guarantee("webhooks:addresses")
async def test_an_address_is_judged_at_each_delivery(hooks: Hooks, broker: Parts) -> None:
    """A name is taken whatever it means now; the relay that delivers asks what it means then."""
    async with receiving(host="127.0.0.1", named="localhost") as receiver:
        made = await hooks.add(receiver.url)
        async with hooks.relay(webhook_networks=("10.0.0.0/8",)):
            await ended(broker)

            async def recorded() -> Any:
                return [one["error"] for one in await deliveries(hooks, made) if one["error"]]

            [error] = await wait_for(recorded)
        assert "MCP_BROKER_WEBHOOK_NETWORKS" in error
        assert receiver.got == []


@pytest.mark.guarantee("webhooks:addresses")
async def test_a_connection_goes_to_the_address_that_was_judged(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that says something else the second time is asked once only."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host == "rebinds.example":
            asked.append(host)
            target = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (target, port))]
        return real(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    async with receiving() as receiver:
        port = receiver.url.rsplit(":", 1)[1].split("/")[0]
        poster = Poster(networks=(), ca_file=authority.file, timeout_s=0.5)
        with pytest.raises(PostFailedError) as failed:
            await poster.post(f"https://rebinds.example:{port}/", headers={}, body=b"{}")
        assert failed.value.kind in {"timeout", "connection_refused"}
        assert asked == ["rebinds.example"], "what was judged is what was connected to"
        with pytest.raises(PostFailedError) as failed:
            await poster.post(f"https://rebinds.example:{port}/", headers={}, body=b"{}")
        assert failed.value.kind == "address_refused"
        assert receiver.got == []
        poster.close()


@pytest.mark.guarantee("webhooks:addresses")
async def test_a_certificate_is_held_to_the_name(authority: Authority, certificate: Any) -> None:
    networks = (ip_network("127.0.0.0/8"),)
    async with (
        receiving(certificate=certificate) as good,
        receiving(certificate=authority.sign("stranger", use="server").both) as strange,
    ):
        poster = Poster(networks=networks, ca_file=authority.file, timeout_s=5)
        answer = await poster.post(good.url, headers={"X-A": "b"}, body=b"{}")
        assert answer.status == 204
        assert good.got[0].headers["Host"] == good.url.split("/")[2]
        with pytest.raises(PostFailedError) as failed:
            await poster.post(strange.url, headers={}, body=b"{}")
        assert failed.value.kind == "tls_error"
        public = Poster(networks=networks, ca_file=None, timeout_s=5)
        with pytest.raises(PostFailedError) as failed:
            await public.post(good.url, headers={}, body=b"{}")
        assert failed.value.kind == "tls_error"
        assert strange.got == []
        for one in (poster, public):
            one.close()

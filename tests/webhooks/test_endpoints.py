"""What operators do with endpoints: secrets are shown once, and templates cannot be broken out."""

import asyncio
import json
from uuid import UUID, uuid4

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from app.cli import app as command_line
from app.edges.parts import Parts
from app.webhooks import payload, signing, template
from app.webhooks.kind import Kind
from app.webhooks.signing import BadSecretError, SealedByAnotherError, Sealer
from tests.support.calls import fetch
from tests.support.stack import listening, wait_for
from tests.webhooks.conftest import KEY, Hooks
from tests.webhooks.receivers import OK, Receiver, status
from tests.webhooks.test_delivery import ended

SLACK = {
    "text": "{{tool}} {{state}}",
    "blocks": [
        {"type": "section", "text": {"type": "mrkdwn", "text": "*{{type}}* <{{link}}|open>"}}
    ],
}


@pytest.mark.guarantee("webhooks:secrets")
async def test_a_secret_is_shown_once_and_kept_sealed(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    made = await hooks.add(receiver.url)
    assert made["secret"].startswith("whsec_")
    secret = signing.parsed(made["secret"])
    for path in ("", f"/{made['webhook_id']}"):
        assert "secret" not in str(await hooks.asked("GET", path)).replace("secret_before", "")
    [row] = await fetch(hooks.dsns.owner, "SELECT id, secret FROM webhook_endpoints")
    assert secret not in row["secret"]
    sealer = Sealer([SecretStr("a newer key of thirty-two bytes.."), SecretStr(KEY)])
    sealed, one = row["secret"], row["id"]
    assert sealer.open(sealed, tenant_id="demo", endpoint_id=one) == secret
    for by, tenant, endpoint in (
        (Sealer([SecretStr("x" * 32)]), "demo", one),
        (sealer, "demo", uuid4()),
        (sealer, "other", one),
    ):
        with pytest.raises(SealedByAnotherError):
            by.open(sealed, tenant_id=tenant, endpoint_id=endpoint)
    trail = await fetch(hooks.dsns.owner, "SELECT body::text FROM audit.events")
    assert not [one for one in trail if "/hook" in one["body"] or "whsec" in one["body"]]


@pytest.mark.guarantee("webhooks:secrets")
async def test_both_secrets_sign_while_one_is_replaced(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    made = await hooks.add(receiver.url)
    rotated = await hooks.asked("POST", f"/{made['webhook_id']}/rotate", json={"keep_s": 3600})
    assert rotated["secret"] != made["secret"]
    async with hooks.relay():
        await ended(broker)
        [one] = await receiver.receives()
        assert one.verified(made["secret"]) == one.verified(rotated["secret"])
        last = await hooks.asked("POST", f"/{made['webhook_id']}/rotate", json={"keep_s": 0})
        await ended(broker)
        two = (await receiver.receives(2))[1]
    two.verified(last["secret"])
    assert len(two.headers["webhook-signature"].split(" ")) == 1


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_!!!!", "whsec_" + "A" * 28, "whsec_" + "A" * 120, "A" * 44]
)
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(BadSecretError):
        signing.parsed(text)


@pytest.mark.guarantee("webhooks:template")
async def test_a_template_is_filled_and_stays_the_json_that_it_was(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    made = await hooks.add(receiver.url, template=SLACK)
    async with hooks.relay(webhook_links="console"):
        one = await ended(broker)
        [got] = await receiver.receives()
    got.verified(made["secret"])
    assert got.json["text"] == "probe succeeded"
    link = f"http://testserver/console/calls/{one}"
    assert got.json["blocks"][0]["text"]["text"] == f"*command.ended* <{link}|open>"


def test_what_waits_for_an_approval_leads_to_where_it_is_decided() -> None:
    data = {"command_id": "1", "tool": "git", "method": "delete"}
    for kind in (Kind.APPROVAL_WAITING, Kind.APPROVAL_ESCALATED):
        path = payload.path_of(kind, data, console=True)
        assert path == "/console/approvals/1"
        assert payload.path_of(kind, data, console=False) == "/commands/1"
    assert payload.path_of(Kind.DEAD_LETTER, data, console=True) == "/console/calls/1"


def test_a_value_breaks_out_of_no_string() -> None:
    hostile = '"}], "x": "{{tenant}} \\ \n 🙂'
    filled = template.fill({"a": ["{{ tool }}", 1, None], "b": "{{state}}"}, {"tool": hostile})
    assert json.loads(orjson.dumps(filled)) == {"a": [hostile, 1, None], "b": ""}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"a": "{{secret}}"},
        {"a": "{{"},
        {"{{tool}}": "x"},
        {"a": "{{tool.__class__}}"},
        {"a": "x" * 9000},
        {"a": json.loads("[" * 20 + "]" * 20)},
    ],
)
async def test_a_template_that_cannot_be_filled_is_refused(hooks: Hooks, bad: object) -> None:
    async with hooks.operator() as http:
        body = {"url": "https://example.org/", "events": ["command.ended"], "template": bad}
        answer = await http.post("/operator/webhooks", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_arguments")
        assert (await http.get("/operator/webhooks")).json() == {"webhooks": []}


async def test_a_tenant_has_so_many_endpoints(hooks: Hooks, receiver: Receiver) -> None:
    for _ in range(20):
        await hooks.add(receiver.url)
    async with hooks.operator() as http:
        body = {"url": receiver.url, "events": ["command.ended"]}
        answer = await http.post("/operator/webhooks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "limit_reached")


async def test_who_is_no_operator_is_refused(hooks: Hooks) -> None:
    async with hooks.app.client("ada") as http:
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{uuid4()}")):
            body = {"url": "https://example.org/", "events": ["command.ended"]}
            answer = await http.request(method, f"/operator/webhooks{path}", json=body)
            assert answer.status_code == 403, path


async def test_the_command_line_adds_tests_rotates_and_removes(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    token = hooks.issuer.token(tenant="demo", user="olga", scopes=["operator"])
    async with listening(hooks.app.guard) as port:

        async def webhook(*argv: str, code: int = 0) -> str:
            env = {"MCP_BROKER_TOKEN": token, "MCP_BROKER_URL": f"http://127.0.0.1:{port}"}
            done = await asyncio.to_thread(
                CliRunner().invoke, command_line, ["webhook", *argv], env=env
            )
            assert done.exit_code == code, done.output
            return done.output

        made = json.loads(await webhook("add", receiver.url, "--json"))
        one = made["webhook_id"]
        assert UUID(one)
        assert len(made["events"]) == 6
        assert one in await webhook("list", "--json")
        assert json.loads(await webhook("show", one))["enabled"]
        async with hooks.relay():
            receiver.says(status(200, body=b"well received"))
            assert "well received" in await webhook("test", one)
            got = receiver.got[-1]
            assert got.verified(made["secret"])["type"] == "webhook.ping"
            receiver.says(status(500, body=b"no"))
            assert "status 500" in await webhook("test", one, code=1)
            assert await webhook("disable", one, "--reason", "holidays") == "disabled\n"
            receiver.says(OK)
            assert "delivered" in await webhook("test", one), "also while it is disabled"
            assert await webhook("enable", one, "--reason", "back") == "enabled\n"
            assert "whsec_" in await webhook("rotate", one, "--keep-s", "60")
            await ended(broker)
            await receiver.receives(4)
            told = json.loads(await webhook("deliveries", one, "--json", "--limit", "1"))
            delivery = told["deliveries"][0]["delivery_id"]
            assert await webhook("redeliver", one, delivery) == "waiting\n"

            async def none_waits() -> bool:
                left = await webhook("deliveries", one, "--json", "--state", "waiting")
                return not json.loads(left)["deliveries"]

            await wait_for(none_waits)
            since = ("--since", "2020-01-01")
            assert "1 deliveries" in await webhook("redeliver", one, *since)
            await webhook("redeliver", one, code=1)
        assert await webhook("remove", one) == "removed\n"
        assert "no webhook" in await webhook("show", one, code=1)

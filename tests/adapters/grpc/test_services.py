"""Kind `grpc` against a real grpcio server: messages, statuses, streams, TLS, and its end."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adapters.contract import CallFailedError, Failure, Outcome, Result
from adapters.credentials import CredentialSources
from adapters.grpc import reflection
from adapters.kinds import Adapters, check
from adapters.targets import Limits, Target, Tls
from tests.adapters.executor import Heard, call_of
from tests.adapters.grpc.service import NAME, Service, descriptors, serving
from tests.support.stack import wait_for

PINNED = descriptors()
DO = {"method": f"{NAME}/Do", "descriptors": PINNED}
WATCH = {"method": f"{NAME}/Watch", "descriptors": PINNED}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving() as made:
        yield made


@pytest.fixture
async def adapters(service: Service) -> AsyncIterator[Adapters]:
    made = Adapters(credentials=CredentialSources({"TOKEN": "t0ken-t0ken"}))
    yield made
    await made.close()


def plain(service: Service, **fields: Any) -> Target:
    options = {"plaintext": True}
    return Target(name="work", kind="grpc", address=service.address, options=options, **fields)


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


def done(outcome: Outcome) -> Any:
    assert isinstance(outcome, Result), outcome
    return outcome.value


async def test_a_message_is_its_json_form_there_and_back(
    adapters: Adapters, service: Service
) -> None:
    args = {
        "name": "ünï🦜",
        "count": 2**62,
        "data": "AP8=",
        "ratio": 1.5,
        "flag": True,
        "tags": ["a", "b"],
        "at": "2026-01-02T03:04:05Z",
        "colour": "RED",
    }
    assert not check(plain(service), DO)
    call = call_of(plain(service), args=args, mapping=DO, traceparent="00-a-b-01")
    value = done(await adapters.run(call, Heard()))
    assert value == args | {"count": str(2**62), "aCode": 0}
    assert service.metadata[0]["idempotency-key"] == "key-1"
    assert service.metadata[0]["traceparent"] == "00-a-b-01"
    mapping = DO | {"message": {"name": "{who}", "tags": ["{who}", "{gone}"]}}
    value = done(
        await adapters.run(call_of(plain(service), args={"who": "x"}, mapping=mapping), Heard())
    )
    assert (value["name"], value["tags"]) == ("x", ["x"])


@pytest.mark.parametrize(
    "args",
    [
        {"unknown": 1},
        {"count": "many"},
        {"count": 2**70},
        {"tags": "a"},
        {"at": "yesterday"},
        {"colour": "GREEN"},
        {"name": "\ud800"},
    ],
)
async def test_arguments_that_are_no_message_are_refused(
    adapters: Adapters, service: Service, args: dict[str, Any]
) -> None:
    call = call_of(plain(service), args=args, mapping=DO, idempotent=True)
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.code, outcome.retryable) == ("invalid_arguments", False)
    assert not service.metadata


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize(
    ("status", "code", "safe", "careless"),
    [
        ("INVALID_ARGUMENT", "target_refused", False, False),
        ("NOT_FOUND", "target_refused", False, False),
        ("UNAUTHENTICATED", "target_refused", False, False),
        ("UNIMPLEMENTED", "target_refused", False, False),
        ("RESOURCE_EXHAUSTED", "target_busy", True, True),
        ("UNAVAILABLE", "target_lost", True, False),
        ("ABORTED", "target_failed", True, False),
        ("INTERNAL", "target_failed", True, False),
        ("CANCELLED", "target_failed", True, False),
        ("DATA_LOSS", "target_failed", True, False),
    ],
)
async def test_statuses_become_errors(
    *, adapters: Adapters, service: Service, status: str, code: str, safe: bool, careless: bool
) -> None:
    args = {"aCode": grpc.StatusCode[status].value[0]}
    for idempotent, retryable in ((True, safe), (False, careless)):
        call = call_of(plain(service), args=args, mapping=DO, idempotent=idempotent)
        outcome = failed(await adapters.run(call, Heard()))
        assert (outcome.code, outcome.retryable) == (code, retryable)
        assert outcome.details == {"status": status, "details": "because"}
        assert outcome.retry_after_s == (2.5 if retryable else None)
    better = DO | {"statuses": {status: "not_done"}}
    assert failed(
        await adapters.run(call_of(plain(service), args=args, mapping=better), Heard())
    ).retryable


async def test_a_streams_messages_are_progress_and_the_result(
    adapters: Adapters, service: Service
) -> None:
    heard = Heard()
    call = call_of(plain(service), args={"name": "n", "count": 500}, mapping=WATCH)
    messages = done(await adapters.run(call, heard))["messages"]
    assert [int(one["count"]) for one in messages] == list(range(500))
    assert heard.said[-1][0] == 500
    last = call_of(plain(service), args={"count": 500}, mapping=WATCH | {"stream": "last"})
    assert done(await adapters.run(last, Heard()))["count"] == "499"
    none = call_of(plain(service), args={}, mapping=WATCH | {"stream": "last"})
    assert done(await adapters.run(none, Heard())) is None


async def test_a_stream_that_breaks_off_is_unknown(adapters: Adapters, service: Service) -> None:
    call = call_of(plain(service), args={"count": 2, "aCode": 13}, mapping=WATCH)
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.code, outcome.outcome_unknown) == ("target_failed", True)


@pytest.mark.guarantee("adapters:bounded")
async def test_answers_are_bounded(adapters: Adapters, service: Service) -> None:
    target = plain(service, limits=Limits(result_bytes_max=10_000))
    for args, mapping in (({"name": "large"}, DO), ({"count": 5000}, WATCH)):
        call = call_of(target, args=args, mapping=mapping, idempotent=True)
        outcome = failed(await adapters.run(call, Heard()))
        assert (outcome.code, outcome.retryable) == ("result_too_large", False)


@pytest.mark.guarantee("adapters:ended")
@pytest.mark.parametrize("mapping", [DO, WATCH])
async def test_cancel_and_deadline_reach_the_service(
    adapters: Adapters, service: Service, mapping: dict[str, Any]
) -> None:
    heard = Heard()
    call = call_of(plain(service), args={"name": "wait"}, mapping=mapping)
    running = asyncio.create_task(adapters.run(call, heard))
    await asyncio.wait_for(service.begun.wait(), 5)
    heard.cancel()
    outcome = failed(await asyncio.wait_for(running, 5))
    assert (outcome.code, outcome.outcome_unknown) == ("cancelled", True)
    await asyncio.wait_for(service.cancelled.wait(), 5)
    service.cancelled.clear()
    late = call_of(plain(service), args={"name": "wait"}, mapping=mapping, deadline_s=0.3)
    outcome = failed(await asyncio.wait_for(adapters.run(late, Heard()), 5))
    assert (outcome.code, outcome.outcome_unknown) == ("deadline_exceeded", True)
    await asyncio.wait_for(service.cancelled.wait(), 5)


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize("mapping", [DO, WATCH])
async def test_a_service_that_dies_in_the_middle_is_unknown_and_found_again(
    adapters: Adapters, mapping: dict[str, Any]
) -> None:
    async with serving() as dying:
        target = plain(dying)
        call = call_of(target, args={"name": "wait"}, mapping=mapping)
        running = asyncio.create_task(adapters.run(call, Heard()))
        await asyncio.wait_for(dying.begun.wait(), 5)
    outcome = failed(await asyncio.wait_for(running, 5))
    assert outcome.outcome_unknown, outcome
    port = int(dying.address.rpartition(":")[2])

    async def found() -> bool:
        again = call_of(target, args={"name": "n"}, mapping=mapping)
        return isinstance(await adapters.run(again, Heard()), Result)

    async with serving(port=port):
        await wait_for(found, 10)


async def test_nobody_there_means_that_nothing_was_done(
    adapters: Adapters, service: Service
) -> None:
    held = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    held.close()
    await held.wait_closed()
    target = Target(
        name="none", kind="grpc", address=f"127.0.0.1:{port}", options={"plaintext": True}
    )
    outcome = failed(await adapters.run(call_of(target, mapping=DO), Heard()))
    assert (outcome.code, outcome.retryable) == ("target_unavailable", True)


@pytest.mark.guarantee("adapters:masked")
async def test_credentials_go_along_and_do_not_come_back(
    adapters: Adapters, service: Service
) -> None:
    target = plain(service, credential={"type": "bearer", "token": "env:TOKEN"})
    value = done(await adapters.run(call_of(target, args={"name": "token"}, mapping=DO), Heard()))
    assert service.metadata[0]["authorization"] == "Bearer t0ken-t0ken"
    assert value["name"] == "Bearer [redacted]"


@pytest.mark.parametrize("versions", [["v1alpha"], ["v1"], ["v1", "v1alpha"]], ids=str)
async def test_descriptors_come_from_a_server_by_reflection(
    adapters: Adapters, versions: list[str]
) -> None:
    async with serving(versions=versions) as service:
        await describes_itself(adapters, service)


async def test_a_server_without_reflection_says_so_at_once() -> None:
    async with (
        serving(versions=()) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        with pytest.raises(CallFailedError, match="UNIMPLEMENTED"):
            await reflection.services(channel)


async def describes_itself(adapters: Adapters, service: Service) -> None:
    async with grpc.aio.insecure_channel(service.address) as channel:
        assert await reflection.services(channel) == [NAME]
        pinned = await reflection.descriptors(channel, NAME)
        with pytest.raises(LookupError):
            await reflection.descriptors(channel, "test.v1.None")
    call = call_of(plain(service), args={"name": "x"}, mapping=DO | {"descriptors": pinned})
    assert done(await adapters.run(call, Heard()))["name"] == "x"


def certificate(
    name: str, signer: tuple[Any, Any] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key if signer is None else signer[1], hashes.SHA256())
    )
    return made, key


def pem(pair: tuple[Any, Any]) -> tuple[bytes, bytes]:
    kept = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = pair[1].private_bytes(serialization.Encoding.PEM, *kept)
    return pair[0].public_bytes(serialization.Encoding.PEM), key


async def test_tls_and_mutual_tls(tmp_path: Path) -> None:
    authority = certificate("authority")
    server, client = certificate("work.example", authority), certificate("worker", authority)
    for name, content in (
        ("ca.pem", pem(authority)[0]),
        ("client.pem", pem(client)[0]),
        ("client.key", pem(client)[1]),
    ):
        (tmp_path / name).write_bytes(content)
    credentials = grpc.ssl_server_credentials(
        [(pem(server)[1], pem(server)[0])], pem(authority)[0], require_client_auth=True
    )
    whole = Tls(
        ca=f"file:{tmp_path}/ca.pem",
        certificate=f"file:{tmp_path}/client.pem",
        key=f"file:{tmp_path}/client.key",
        server_name="work.example",
    )
    nameless = Tls(ca=whole.ca, server_name="work.example")
    stranger = Tls(certificate=whole.certificate, key=whole.key, server_name="work.example")
    adapters = Adapters()
    async with serving(credentials) as service:

        async def asked(tls: Tls) -> Outcome:
            limits = Limits(connect_s=5)
            target = Target(
                name="work", kind="grpc", address=service.address, tls=tls, limits=limits
            )
            call = call_of(target, args={"name": "x"}, mapping=DO)
            return await adapters.run(call, Heard())

        assert done(await asked(whole))["name"] == "x"
        for wrong in (nameless, stranger, Tls(ca=whole.ca, server_name="other.example")):
            outcome = failed(await asked(wrong))
            assert (outcome.code, outcome.retryable) == ("target_unavailable", True)
        await adapters.close()


def test_what_a_mapping_and_a_target_may_not_say_is_told() -> None:
    target = Target(name="t", kind="grpc", address="work.example:443")
    for wrong in (
        {"method": f"{NAME}/None"},
        {"method": "None/Do"},
        {"method": f"{NAME}/Feed"},
        {"descriptors": "!"},
        {"descriptors": "AAAA"},
        {"colour": 1},
        {"message": []},
        {"message": {"a": "{"}},
        {"statuses": {"ODD": "refused"}},
        {"stream": "some"},
    ):
        assert len(check(target, DO | wrong)) == 1, wrong
    for field in ({"address": "work.example"}, {"options": {"odd": 1}}):
        given = {"name": "t", "kind": "grpc", "address": "work.example:443"} | field
        assert len(check(Target.read(given), DO)) == 1, field

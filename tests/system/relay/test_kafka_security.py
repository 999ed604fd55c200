"""Kafka over TLS with client certificates, and SASL over TLS: the relay's client and EDA's."""

import asyncio
import importlib.util
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from subprocess import Popen
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka.errors import KafkaError
from cryptography import x509

from app import assets
from app.config import Settings
from app.contract import COMMANDS
from devstack.eda import EmbeddedEda
from devstack.kafka import EmbeddedKafka, Secured
from relay.publisher import Publisher, PublishError, Record
from tests.support.pki import Authority, Identity
from tests.system.eda.controller import TOKEN, Controller

USERS = {"PLAIN": "ada", "SCRAM-SHA-256": "relay", "SCRAM-SHA-512": "relay"}
WORD = "correct-horse"
PLUGIN = (
    "rulebooks/collections/ansible_collections/mcpbroker/eda/extensions/eda/plugins/event_source"
)
UPSTREAM = assets.root() / "tests" / "system" / "eda" / "fixtures" / "upstream"


class Cluster:
    """One broker with a listener for certificates and one for passwords."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        self.stranger = Authority(folder, "stranger")
        here = x509.IPAddress(ip_address("127.0.0.1"))
        server = self.authority.sign("kafka", here, use="server")
        self.client = self.authority.sign("relay")
        self.forged = self.stranger.sign("forged")
        self.word_file = folder / "word"
        self.word_file.write_text(f"{WORD}\n")
        self.kafka = EmbeddedKafka(
            secured=Secured(
                keystore=server.both,
                truststore=self.authority.file,
                plain={USERS["PLAIN"]: WORD},
                scram={USERS["SCRAM-SHA-512"]: WORD},
            )
        )

    def mtls(self, client: Identity | None, **changes: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"security_protocol": "SSL", "cafile": self.authority.file}
        if client is not None:
            made |= {"certfile": client.cert, "keyfile": client.key}
        return made | changes

    def sasl(self, mechanism: str, **changes: Any) -> dict[str, Any]:
        made = {"security_protocol": "SASL_SSL", "cafile": self.authority.file}
        made |= {"sasl_mechanism": mechanism, "sasl_username": USERS[mechanism]}
        return made | {"sasl_password": WORD} | changes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("kafka-pki"))
    with made.kafka:
        yield made


async def publish(bootstrap: str, security: dict[str, Any]) -> bytes:
    """Send one record as the relay does."""
    settings = Settings.model_validate(
        {
            "database_url": "postgresql://unused",
            "kafka_bootstrap": bootstrap,
            "kafka_security": security,
            "publish_timeout_s": 5,
        }
    )
    publisher = Publisher(settings, client_id="test")
    value = orjson.dumps({"tool": "probe", "n": uuid4().hex})
    record = Record(topic=COMMANDS, key=b"k", value=value, headers=[])
    try:
        await publisher.publish([record])
    finally:
        await publisher.discard()
    return value


@asynccontextmanager
async def source(bootstrap: str, security: dict[str, Any]) -> AsyncGenerator[asyncio.Queue[Any]]:
    """EDA's source plugin, feeding a queue as ansible-rulebook has it run."""
    spec = importlib.util.spec_from_file_location("eda_kafka", assets.root() / PLUGIN / "kafka.py")
    assert spec is not None
    assert spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    queue: asyncio.Queue[Any] = asyncio.Queue()
    options = {name: str(value) for name, value in security.items()}
    args = {"brokers": [bootstrap], "topic": COMMANDS, "group_id": f"g-{uuid4().hex}"} | options
    task = asyncio.create_task(plugin.main(queue, args))
    try:
        yield queue
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, KafkaError):
            await task


async def arrives(queue: asyncio.Queue[Any], value: bytes) -> bool:
    async with asyncio.timeout(20):
        while (await queue.get())["body"] != orjson.loads(value):
            pass
    return True


@pytest.mark.guarantee("kafka:secured")
async def test_relay_and_eda_reach_kafka_with_a_client_certificate(cluster: Cluster) -> None:
    bootstrap = f"127.0.0.1:{cluster.kafka.mtls_port}"
    value = await publish(bootstrap, cluster.mtls(cluster.client))
    async with source(bootstrap, cluster.mtls(cluster.client)) as queue:
        assert await arrives(queue, value)
    for security in (
        cluster.mtls(None),
        cluster.mtls(cluster.forged),
        cluster.mtls(cluster.client, cafile=cluster.stranger.file),
    ):
        with pytest.raises(PublishError):
            await publish(bootstrap, security)
    with pytest.raises(PublishError):
        # Its certificate is for the address, not for this name.
        await publish(f"localhost:{cluster.kafka.mtls_port}", cluster.mtls(cluster.client))


@pytest.mark.guarantee("kafka:secured")
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
async def test_relay_and_eda_reach_kafka_with_a_password_over_tls(
    cluster: Cluster, mechanism: str
) -> None:
    bootstrap = f"127.0.0.1:{cluster.kafka.sasl_port}"
    from_file = cluster.sasl(mechanism, sasl_password_file=cluster.word_file)
    del from_file["sasl_password"]
    value = await publish(bootstrap, from_file)
    options = cluster.sasl(mechanism)
    options["sasl_plain_username"] = options.pop("sasl_username")
    del options["sasl_password"]
    options |= {"sasl_plain_password_file": cluster.word_file, "certfile": "", "keyfile": ""}
    async with source(bootstrap, options) as queue:
        assert await arrives(queue, value)
    for wrong in ({"sasl_password": "wrong"}, {"cafile": cluster.stranger.file}):
        with pytest.raises(PublishError):
            await publish(bootstrap, cluster.sasl(mechanism, **wrong))


@pytest.mark.eda
@pytest.mark.guarantee("kafka:secured")
async def test_the_shipped_rulebook_joins_its_group_over_tls_with_a_password(
    cluster: Cluster, tmp_path: Path
) -> None:
    bootstrap = f"127.0.0.1:{cluster.kafka.sasl_port}"
    await publish(bootstrap, cluster.sasl("SCRAM-SHA-512"))  # makes the topics
    eda = EmbeddedEda(
        home=tmp_path / "eda",
        kafka=bootstrap,
        broker_url="http://127.0.0.1:9",
        token="unused",
        workspace=tmp_path,
        topic="mcp.control",  # which nobody writes to
        variables={
            "kafka_security_protocol": "SASL_SSL",
            "kafka_cafile": str(cluster.authority.file),
            "kafka_username": USERS["SCRAM-SHA-512"],
            "kafka_password_file": str(cluster.word_file),
        },
    )
    await asyncio.to_thread(eda.start)  # ready once Kafka has given it partitions
    await asyncio.to_thread(eda.stop)
    assert WORD not in (tmp_path / "eda" / "eda.log").read_text()


@pytest.fixture
def controller() -> Iterator[Controller]:
    """One that nothing is launched on."""

    def run(template: str, _variables: Mapping[str, Any]) -> Popen[str]:
        raise AssertionError(template)

    with Controller(run) as controller:
        yield controller


@pytest.mark.eda
@pytest.mark.guarantee("kafka:secured")
@pytest.mark.parametrize("listener", ["mtls", "sasl"])
async def test_both_sources_of_a_controllers_rulebook_read_over_tls(
    cluster: Cluster, listener: str, controller: Controller, tmp_path: Path
) -> None:
    """As the shipped rulebook gives them their options: upstream's source, and ours."""
    port = cluster.kafka.mtls_port if listener == "mtls" else cluster.kafka.sasl_port
    bootstrap = f"127.0.0.1:{port}"
    security = cluster.mtls(cluster.client)
    variables = {"kafka_security_protocol": "SSL", "kafka_certfile": str(cluster.client.cert)}
    variables |= {"kafka_keyfile": str(cluster.client.key)}
    if listener == "sasl":
        security = cluster.sasl("SCRAM-SHA-512")
        variables = {"kafka_security_protocol": "SASL_SSL", "kafka_password": WORD}
        variables |= {"kafka_username": USERS["SCRAM-SHA-512"]}
    await publish(bootstrap, security)  # makes the topics
    collections = assets.root() / "rulebooks" / "collections"
    eda = EmbeddedEda(
        home=tmp_path / "eda",
        kafka=bootstrap,
        broker_url="http://127.0.0.1:9",
        token="unused",
        workspace=tmp_path,
        topic="mcp.control",  # which nobody writes to
        rulebook=assets.root() / "rulebooks" / "rulebook_mcp_aap.yml",
        variables=variables | {"kafka_cafile": str(cluster.authority.file)},
        env={"ANSIBLE_COLLECTIONS_PATH": f"{collections}:{UPSTREAM}"},
        controller=(controller.url, TOKEN),
    )
    await asyncio.to_thread(eda.start)  # ready once upstream's source has reached Kafka
    try:
        reads = re.compile(rb"mcpbroker\.eda\.control: reads mcp\.control")
        await asyncio.to_thread(
            eda.process.wait_ready, lambda: eda.process.logged(reads), timeout_s=30
        )
    finally:
        await asyncio.to_thread(eda.stop)
    assert WORD not in (tmp_path / "eda" / "eda.log").read_text()

"""A real ansible-rulebook on a topic of its own, and ansible-playbook alone."""

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app import assets
from devstack.eda import EmbeddedEda
from tests.support.stack import make_repo
from tests.system.eda.results_api import TOKEN, ResultsApi

ROOT = assets.root()
COLLECTIONS = ROOT / "rulebooks" / "collections"

Publish = Callable[..., Awaitable[None]]
Send = Callable[..., Awaitable[None]]


@pytest.fixture(scope="module")
def api() -> Iterator[ResultsApi]:
    with ResultsApi() as api:
        yield api


@pytest.fixture(scope="module")
async def topic(kafka_bootstrap: str) -> str:
    """A topic of the module's own: other tests' commands would be run as well."""
    return await make_topic(kafka_bootstrap)


async def make_topic(kafka_bootstrap: str) -> str:
    """A new topic, with one for control messages."""
    name = f"commands-{uuid4()}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1), NewTopic(f"{name}-control", 1, 1)])
    await admin.close()
    return name


@pytest.fixture(scope="module")
def publish(kafka_bootstrap: str) -> Publish:
    """Publishes values to a topic as the relay does."""

    async def publish(
        topic: str,
        *values: Mapping[str, Any] | bytes | None,
        headers: Mapping[str, bytes] | None = None,
    ) -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
            for value in values:
                data = orjson.dumps(value) if isinstance(value, dict) else value
                named = {"message_uuid": str(uuid4()).encode()} | dict(headers or {})
                pairs = list(named.items())
                await producer.send_and_wait(topic, data, key=b"key", headers=pairs)

    return publish


@pytest.fixture(scope="module")
def send(publish: Publish, topic: str) -> Send:
    """Publishes commands."""
    return partial(publish, topic)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("eda")


@pytest.fixture(scope="module")
def rulebook() -> Path | None:
    """The shipped one; a module may have another."""
    return None


@pytest.fixture(scope="module")
def eda(
    kafka_bootstrap: str, topic: str, api: ResultsApi, home: Path, rulebook: Path | None
) -> Iterator[EmbeddedEda]:
    eda = EmbeddedEda(
        home=home,
        kafka=kafka_bootstrap,
        broker_url=api.url,
        token=TOKEN,
        workspace=home / "workspace",
        group=f"eda-{uuid4()}",
        topic=topic,
        variables={"control_topic": f"{topic}-control"},
        rulebook=rulebook,
        actions_max=4,
    )
    eda.start()
    yield eda
    eda.stop()


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real repository."""
    return make_repo(tmp_path_factory.mktemp("source") / "repo")


def start_play(
    playbook: Path,
    command: Mapping[str, Any],
    *,
    api: ResultsApi,
    workspace: Path,
    variables: Mapping[str, Any] | None = None,
    **env: str,
) -> subprocess.Popen[str]:
    """ansible-playbook as ansible-rulebook starts it, for one event."""
    programs = Path(sys.executable).parent
    variables = variables or {"ansible_eda": {"event": {"body": command}}}
    argv = [programs / "ansible-playbook", "-i", ROOT / "rulebooks" / "inventory.yml"]
    # By a file, as ansible-runner does it.
    given = workspace.parent / f"vars-{uuid4()}.json"
    given.write_bytes(orjson.dumps(variables))
    argv += ["-e", f"@{given}", playbook]
    return subprocess.Popen(
        argv,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_CONFIG": str(ROOT / "playbooks" / "ansible.cfg"),
            "ANSIBLE_HOME": str(workspace.parent / "ansible"),
            "MCP_BROKER_URL": api.url,
            "MCP_BROKER_TOKEN": TOKEN,
            "MCP_WORKSPACE": str(workspace),
            "MCP_GIT_PROTOCOLS": "file",
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def play(
    playbook: Path,
    command: Mapping[str, Any],
    *,
    api: ResultsApi,
    workspace: Path,
    variables: Mapping[str, Any] | None = None,
    **env: str,
) -> str:
    """Its output, once it has ended well: a play reports failures and does not fail of them."""
    process = start_play(
        playbook, command, api=api, workspace=workspace, variables=variables, **env
    )
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output

"""A real ansible-rulebook on a topic of its own, and ansible-playbook alone."""

import os
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from ansible_rulebook.job_template_runner import job_template_runner

from app import assets
from devstack.eda import EmbeddedEda
from tests.support import packages
from tests.support.pki import Authority
from tests.support.stack import make_repo
from tests.system.eda.controller import TOKEN as CONTROLLER_TOKEN
from tests.system.eda.controller import Controller
from tests.system.eda.results_api import TOKEN, ResultsApi

ROOT = assets.root()
COLLECTIONS = ROOT / "rulebooks" / "collections"
TOOLS = Path(__file__).with_name("fixtures") / "collection-tools.txt"
UPSTREAM = Path(__file__).with_name("fixtures") / "upstream"

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


def rulebook_process(
    home: Path, kafka: str, api: ResultsApi, topic: str, **more: Any
) -> EmbeddedEda:
    """A rulebook process, not started, that reads a topic and its control topic."""
    variables = {"control_topic": f"{topic}-control"} | more.pop("variables", {})
    given: dict[str, Any] = {"workspace": home / "workspace", "group": f"eda-{uuid4()}"} | more
    return EmbeddedEda(
        home=home,
        kafka=kafka,
        broker_url=api.url,
        token=TOKEN,
        topic=topic,
        variables=variables,
        **given,
    )


def controllers_process(
    home: Path, kafka: str, api: ResultsApi, topic: str, controller: Controller, **more: Any
) -> EmbeddedEda:
    """One of a controller's rulebook, on upstream's source of events."""
    return rulebook_process(
        home,
        kafka,
        api,
        topic,
        rulebook=ROOT / "rulebooks" / "rulebook_mcp_aap.yml",
        env={"ANSIBLE_COLLECTIONS_PATH": f"{COLLECTIONS}{os.pathsep}{UPSTREAM}"},
        controller=(controller.url, CONTROLLER_TOKEN),
        **more,
    )


@pytest.fixture(scope="module")
def eda(
    kafka_bootstrap: str, topic: str, api: ResultsApi, home: Path, rulebook: Path | None
) -> Iterator[EmbeddedEda]:
    eda = rulebook_process(home, kafka_bootstrap, api, topic, rulebook=rulebook, actions_max=4)
    eda.start()
    yield eda
    eda.stop()


@pytest.fixture
async def controller(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Controller]:
    """The controller that this process, as ansible-rulebook, launches jobs on."""

    def run(template: str, variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        del template, variables
        return subprocess.Popen(["sleep", "600"], text=True)

    with Controller(run) as controller:
        monkeypatch.setattr(job_template_runner, "token", CONTROLLER_TOKEN)
        monkeypatch.setattr(job_template_runner, "host", controller.url)
        yield controller
        await job_template_runner.close_session()


@pytest.fixture
def mutual(tmp_path: Path) -> Iterator[tuple[ResultsApi, dict[str, str]]]:
    """A results API that wants a client's certificate, and the environment of one who has it."""
    authority = Authority(tmp_path, "authority")
    server, client = authority.server(), authority.sign("adapter")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(server.cert, server.key)
    with ResultsApi(tls=tls) as api:
        files = {"CAFILE": authority.file, "CERTFILE": client.cert, "KEYFILE": client.key}
        yield api, {f"MCP_BROKER_{name}": str(file) for name, file in files.items()}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Where a play works; it makes the folder."""
    return tmp_path / "workspace"


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
    hosts: Sequence[str | Path] = ("-i", ROOT / "rulebooks" / "inventory.yml"),
    **env: str,
) -> subprocess.Popen[str]:
    """ansible-playbook as ansible-rulebook starts it, for one event."""
    programs = Path(sys.executable).parent
    variables = variables or {"ansible_eda": {"event": {"body": command}}}
    argv: list[str | Path] = [programs / "ansible-playbook", *hosts]
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


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder of what judges collections, at pinned versions."""
    try:
        return packages.programs("collection-tools", TOOLS)
    except packages.UnreachableError as error:
        pytest.skip(f"the package index does not answer: {error}")


def run(*argv: str | Path, cwd: Path | None = None, **env: str) -> str:
    """The output of a program that ends well."""
    environ = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), **env}
    done = subprocess.run(
        argv, env=environ, cwd=cwd, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def judged(tools: Path, *argv: str, cwd: Path, **env: str) -> str:
    """What a tool says; it looks for others on the path, and keeps things at home."""
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    home = cwd / ".ansible" / "home"
    home.mkdir(parents=True, exist_ok=True)
    # The importer lints too, with less than the production profile.
    given = {"PATH": path, "HOME": str(home), "GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "no"}
    return run(tools / argv[0], *argv[1:], cwd=cwd, **(given | env))

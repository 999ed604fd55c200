"""deploy/aap/configure.yml on servers that refuse what a controller and EDA refuse."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.support import packages
from tests.system.eda.configuration import ENCRYPTED, TOKEN, Api, injected
from tests.system.eda.configured import ControllerApi, EdaApi
from tests.system.eda.conftest import COLLECTIONS, ROOT, judged

PLAYBOOKS = {f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*.yml")}
RULEBOOK = "rulebook_mcp_aap.yml"
RECAP = re.compile(r"changed=(\d+).*failed=(\d+)")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def awx() -> Path:
    """awx.awx, which is in PyPI's package ansible."""
    inside = "ansible_collections/awx/awx"
    return had(partial(packages.part, "awx.awx-24.6.1", "ansible==12.3.0", inside))


@pytest.fixture(scope="module")
def ansible_eda() -> Path:
    """ansible.eda, which is on Galaxy alone."""
    return had(partial(packages.collection, "ansible.eda", "2.13.0"))


def had(fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except packages.UnreachableError as error:
        pytest.skip(f"a collection cannot be had: {error}")


@dataclass(slots=True)
class Half:
    """A controller or EDA, and the playbook for it."""

    tag: str
    api: Api
    collection: Path
    home: Path

    def configure(
        self, *argv: str, given: Mapping[str, Any] | None = None, fails: bool = False
    ) -> tuple[int, str]:
        """How many tasks have changed something, and the output."""
        variables: dict[str, Any] = {
            "controller_url": self.api.url,
            "broker_token": "the-adapters-secret",
            "eda_launch_token": "the-launch-secret",
        }
        path = self.home / "yours.yml"
        path.write_bytes(orjson.dumps(variables | dict(given or {})))
        programs = Path(sys.executable).parent
        done = subprocess.run(
            [
                programs / "ansible-playbook",
                "deploy/aap/configure.yml",
                *("--tags", self.tag, "-e", f"@{path}"),
                *argv,
            ],
            cwd=ROOT,
            env={
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "HOME": str(self.home),
                "ANSIBLE_HOME": str(self.home / "ansible"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.collection),
                "ANSIBLE_LOCALHOST_WARNING": "false",
                "ANSIBLE_PIPELINING": "true",
                "AAP_TOKEN": TOKEN,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        output = done.stdout + done.stderr
        recap = RECAP.search(output)
        assert recap is not None, output
        assert (recap[2] != "0") is fails, output
        assert "the-adapters-secret" not in output
        assert not fails or done.returncode == 2
        return int(recap[1]), output


@pytest.fixture
def controller(awx: Path, tmp_path: Path) -> Iterator[tuple[Half, ControllerApi]]:
    with ControllerApi(PLAYBOOKS) as api:
        yield Half("controller", api, awx, tmp_path), api


@pytest.fixture
def eda(ansible_eda: Path, tmp_path: Path, release: set[str]) -> Iterator[tuple[Half, EdaApi]]:
    rules = (ROOT / "rulebooks" / RULEBOOK).read_text()
    with EdaApi({RULEBOOK: rules}, release) as api:
        yield Half("eda", api, ansible_eda, tmp_path), api


@pytest.fixture
def release() -> set[str]:
    """What a credential type of EDA's may inject: 2.5's."""
    return {"extra_vars"}


def made_once(half: Half) -> None:
    """All of it is made, once; a check makes nothing."""
    half.configure("--check")
    assert half.api.changes == []
    half.configure()
    made = len(half.api.changes)
    assert made > 0
    assert half.configure()[0] == 0, "a second run changes nothing"
    assert len(half.api.changes) == made
    assert half.api.dropped == []


@pytest.mark.guarantee("aap:configured")
def test_what_jobs_want_is_made_once_and_a_check_makes_nothing(
    controller: tuple[Half, ControllerApi],
) -> None:
    made_once(controller[0])
    as_launched(controller[1])


@pytest.mark.guarantee("aap:configured")
def test_what_an_activation_wants_is_made_once_and_a_check_makes_nothing(
    eda: tuple[Half, EdaApi],
) -> None:
    made_once(eda[0])
    as_activated(eda[1])


def as_launched(controller: ControllerApi) -> None:
    """Each job template of the rulebook is there, takes what the rulebook gives, and its job's
    environment has what the adapters want.
    """
    [ruleset] = yaml.safe_load((ROOT / "rulebooks" / RULEBOOK).read_text())
    launched = {rule["action"]["run_job_template"]["name"] for rule in ruleset["rules"][2:]}
    templates = {one["name"]: one for one in controller.all("job_templates")}
    assert launched <= set(templates)
    assert {one["playbook"] for one in templates.values()} == PLAYBOOKS, "none is forgotten"
    credential = controller.named("credentials", "MCP broker")
    for one in templates.values():
        assert one["ask_variables_on_launch"]
        assert one["ask_labels_on_launch"]
        assert one["ask_limit_on_launch"]
        assert one["allow_simultaneous"]
        assert controller.attached[one["id"]] == [credential["id"]]
    injectors = controller.named("credential_types", "MCP broker")["injectors"]
    assert injected(injectors, credential["inputs"], "/runner/token") == {
        "env": {
            "MCP_BROKER_URL": "https://broker.example",
            "MCP_BROKER_TOKEN_FILE": "/runner/token",
        },
        "file": {"template": "the-adapters-secret"},
    }
    assert controller.view("credentials", credential)["inputs"]["token"] == ENCRYPTED


def as_activated(eda: EdaApi) -> None:
    """The activation restarts always, and has what the rulebook's sources take."""
    activation = eda.named("activations", "MCP broker")
    assert activation["is_enabled"]
    assert activation["restart_policy"] == "always"
    assert activation["rulebook_id"] == eda.named("rulebooks", RULEBOOK)["id"]
    injectors = eda.named("credential-types", "MCP broker")["injectors"]
    inputs = eda.named("eda-credentials", "MCP broker")["inputs"]
    [where] = injectors
    assert "the-adapters-secret" in injected(injectors, inputs, "")[where].values()
    given = set(yaml.safe_load(activation["extra_var"])) | set(injectors.get("extra_vars", {}))
    read = set(re.findall(r"{{ (\w+)", (ROOT / "rulebooks" / RULEBOOK).read_text()))
    assert given <= read, "what the rulebook reads"


@pytest.mark.guarantee("aap:configured")
def test_a_change_reaches_an_activation_that_runs_and_secrets_are_kept(
    eda: tuple[Half, EdaApi],
) -> None:
    half, api = eda
    half.configure()
    api.changes.clear()
    given = {"rulebook_variables": {"kafka_host": "k2", "kafka_port": 9093, "kafka_group": "g"}}
    assert half.configure("--check", given=given)[0] > 0
    assert api.changes == []
    half.configure(given=given | {"broker_token": "not taken"})
    activation = api.named("activations", "MCP broker")
    at = f"/api/eda/v1/activations/{activation['id']}/"
    # Refused once, as a running activation takes its time to stop.
    assert api.changes == [f"POST {at}disable/", f"PATCH {at}", f"PATCH {at}"]
    assert "kafka_host: k2" in activation["extra_var"]
    assert activation["is_enabled"]
    half.configure(given=given | {"update_secrets": True, "broker_token": "another"})
    assert api.named("eda-credentials", "MCP broker")["inputs"]["token"] == "another"


@pytest.mark.parametrize("release", [{"env", "extra_vars", "file"}])
def test_a_later_release_keeps_the_token_out_of_the_variables(eda: tuple[Half, EdaApi]) -> None:
    half, api = eda
    given = {"eda_injects": "env", "kafka_username": "u", "kafka_password": "k-secret"}
    half.configure(given=given)
    assert set(api.named("credential-types", "MCP broker")["injectors"]) == {"env"}
    as_activated(api)
    kafka = api.named("eda-credentials", "MCP broker's Kafka")
    assert kafka["id"] in api.named("activations", "MCP broker")["eda_credentials"]


def test_what_eda_refuses_is_told_in_its_words(eda: tuple[Half, EdaApi]) -> None:
    _, said = eda[0].configure(given={"eda_injects": "env"}, fails=True)
    assert "Injectors must have keys defined in ['extra_vars']" in said


def test_a_controller_below_a_gateway_is_configured(awx: Path, tmp_path: Path) -> None:
    given = {"controller_api": "/api/controller/", "job_templates": ["mcp_echo_adapter"]}
    with ControllerApi(PLAYBOOKS, root="/api/controller/v2") as api:
        Half("controller", api, awx, tmp_path).configure(given=given)
        assert api.named("job_templates", "mcp_echo_adapter")["ask_variables_on_launch"]


def test_what_a_controller_refuses_is_told_in_its_words(
    controller: tuple[Half, ControllerApi],
) -> None:
    none = {"job_templates": ["mcp_none_adapter"]}
    _, said = controller[0].configure(given=none, fails=True)
    assert "Playbook not found for project" in said


def test_it_keeps_the_production_rules(
    awx: Path, ansible_eda: Path, tools: Path, tmp_path: Path
) -> None:
    paths = os.pathsep.join(map(str, (awx, ansible_eda, COLLECTIONS)))
    linted = ["deploy/aap", "playbooks", "rulebooks/rulebook_mcp.yml", "rulebooks/" + RULEBOOK]
    for name in linted:
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy)
    argv = ["ansible-lint", "--profile", "production", "--offline", *linted]
    judged(tools, *argv, cwd=tmp_path, ANSIBLE_COLLECTIONS_PATH=paths)

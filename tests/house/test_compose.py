"""compose.yaml: who reaches what, and which secrets are whose."""

import re
from typing import Any

import yaml

from app import assets
from app.config import PREFIX, Settings, WorkerSettings

FILE = assets.root() / "compose.yaml"
COMPOSED: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSED["services"]


def reach(one: str, other: str) -> bool:
    return bool(set(SERVICES[one]["networks"]) & set(SERVICES[other]["networks"]))


def test_adapters_reach_the_app_and_kafka_and_not_the_database() -> None:
    for one in ("eda", "worker"):
        assert reach(one, "app")
        assert reach(one, "kafka")
        assert not reach(one, "postgres")
    assert not reach("app", "kafka"), "the app has nothing to do with it"
    assert all(reach(one, "postgres") for one in ("app", "relay", "migrate"))


def test_each_secret_is_a_file_of_whom_it_is_for() -> None:
    whose = {
        secret: {name for name, one in SERVICES.items() if secret in one.get("secrets", ())}
        for secret in COMPOSED["secrets"]
    }
    assert whose == {
        "postgres": {"postgres"},
        "owner_url": {"migrate"},
        "seal_key": {"relay"},
        "grafana": {"grafana"},
        "observer": {"grafana"},
    }
    text = FILE.read_text(encoding="utf-8")
    assert not re.search(r"(?i)_password: |://[a-z_]+:[^.…$@\s]+@", text)
    assert "/run/secrets/seal_key" in SERVICES["relay"]["environment"]["MCP_BROKER_SEAL_KEYS"]


def test_every_variable_of_ours_is_a_setting_of_whom_it_is_given_to() -> None:
    app, worker = set(Settings.model_fields), set(WorkerSettings.model_fields)
    for name, one in SERVICES.items():
        known = worker if name in {"eda", "worker"} else app
        given = {
            variable.removeprefix(PREFIX).removesuffix("_FILE").lower()
            for variable in one.get("environment", ())
            if variable.startswith(PREFIX)
        }
        assert given <= known, name
        assert given or "image" in one, name


def test_images_have_whole_versions() -> None:
    docker = (assets.root() / "Dockerfile").read_text(encoding="utf-8")
    images = [
        one["image"].split(":-")[1].rstrip("}") for one in SERVICES.values() if "image" in one
    ]
    images += re.findall(r"_IMAGE=(\S+)", docker)
    assert len(images) == 7
    for image in images:
        assert re.fullmatch(r"[a-z/-]+(:v?\d+(\.\d+)+(-[a-z-]+)?|@sha256:[0-9a-f]{64})", image), (
            image
        )
    assert re.findall(r"^FROM (\S+)", docker, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2


DEPLOY = assets.root() / "deploy"
OBSERVERS = {"prometheus", "grafana", "collector", "jaeger"}


def shipped(name: str) -> Any:
    """A file of deploy/ that a service is given."""
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def mounts(service: str) -> dict[str, str]:
    """Where each file or folder of the repository is in a service."""
    split = [one.split(":") for one in SERVICES[service].get("volumes", ())]
    return {parts[0].removeprefix("./"): parts[1] for parts in split if parts[0][0] == "."}


def test_observers_come_by_their_profile_only_and_are_reached_from_this_host_only() -> None:
    assert {name for name, one in SERVICES.items() if "profiles" in one} == OBSERVERS
    for name in OBSERVERS:
        one = SERVICES[name]
        assert one["profiles"] == ["observability"]
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", ()))
        assert reach(name, "postgres") == (name == "grafana")
        assert not reach(name, "kafka")
        for source in mounts(name):
            assert (assets.root() / source).exists(), source


def test_each_deployment_is_scraped_where_it_serves_its_metrics() -> None:
    scraped = {
        one["job_name"]: one["dns_sd_configs"]
        for one in shipped("prometheus.yml")["scrape_configs"]
    }
    served = {
        name: int(one["environment"]["MCP_BROKER_METRICS_PORT"])
        for name, one in SERVICES.items()
        if "MCP_BROKER_METRICS_PORT" in one.get("environment", ())
    }
    assert served.keys() == {"app", "relay", "worker"}
    assert scraped == {
        name: [{"names": [name], "type": "A", "port": port}] for name, port in served.items()
    }
    assert all(reach("prometheus", name) for name in served)
    folder = mounts("prometheus")["deploy/prometheus.yml"].rpartition("/")[0]
    for rules in shipped("prometheus.yml")["rule_files"]:
        assert mounts("prometheus")[f"deploy/{rules}"] == f"{folder}/{rules}"


def test_grafana_is_given_its_boards_and_every_variable_of_its_sources() -> None:
    folder = "grafana/provisioning"
    [provider] = shipped(f"{folder}/dashboards/broker.yml")["providers"]
    assert provider["options"]["path"] == mounts("grafana")["deploy/grafana"]
    assert mounts("grafana")[f"deploy/{folder}"] == "/etc/grafana/provisioning"
    text = (DEPLOY / folder / "datasources" / "broker.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$([A-Z][A-Z_]+)", text))
    assert len(asked) == 6
    assert asked <= SERVICES["grafana"]["environment"].keys()
    assert "$__file{/run/secrets/observer}" in text
    kinds = {one["type"] for one in shipped(f"{folder}/datasources/broker.yml")["datasources"]}
    assert kinds == {"prometheus", "jaeger", "grafana-postgresql-datasource"}


def test_the_collector_takes_spans_on_a_port_and_gives_them_to_jaeger() -> None:
    config = shipped("otel-collector.yml")
    pipeline = config["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) <= config[kind].keys()
    assert config["exporters"]["otlp/jaeger"]["endpoint"] == "jaeger:4317"
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")
    for name in ("app", "relay", "worker"):
        assert reach(name, "collector")
        assert "OTEL_EXPORTER_OTLP_ENDPOINT" in SERVICES[name]["environment"]

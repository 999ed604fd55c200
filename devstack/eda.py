"""ansible-rulebook as a child process, on the Java of a wheel, with our collection."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from app import assets
from app.contract import COMMANDS
from devstack.kafka import java_env
from devstack.process import Process

READY_S: Final = 60.0
ASSIGNED: Final = re.compile(rb"mcpbroker\.eda\.kafka: assigned [1-9]")


class EmbeddedEda:
    """One rulebook process."""

    def __init__(
        self,
        *,
        home: Path,
        kafka: str,
        broker_url: str,
        token: str,
        workspace: Path,
        group: str = "mcp-broker-eda",
        topic: str = COMMANDS,
        rulebook: Path | None = None,
        variables: Mapping[str, object] | None = None,
        actions_max: int = 20,
        env: Mapping[str, str] | None = None,
        detached: bool = False,
        controller: tuple[str, str] | None = None,
    ) -> None:
        root = assets.root()
        host, _, port = kafka.rpartition(":")
        self.home = home
        self._rulebooks = root / "rulebooks"
        self._rulebook = rulebook or self._rulebooks / "rulebook_mcp.yml"
        self._variables: dict[str, object] = {
            "kafka_brokers": [kafka],
            "kafka_host": host,
            "kafka_port": port,
            "kafka_group": group,
            "commands_topic": topic,
            "playbooks": str(root / "playbooks"),
            **(variables or {}),
        }
        self._actions_max = actions_max
        self._detached = detached
        self._controller = controller  # URL and token
        self._env = {
            "ANSIBLE_COLLECTIONS_PATH": str(self._rulebooks / "collections"),
            "ANSIBLE_HOME": str(home / "ansible"),
            "MCP_BROKER_URL": broker_url,
            "MCP_BROKER_TOKEN": token,
            "MCP_WORKSPACE": str(workspace),
            # A local path is what a demo clones. Elsewhere it would open this machine's files,
            # other tenants' clones among them, to every caller.
            "MCP_GIT_PROTOCOLS": "file:https:ssh",
            **(env or {}),
        }
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running process."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it and wait until Kafka has given it partitions."""
        self.home.mkdir(parents=True, exist_ok=True)
        variables = self.home / "eda-vars.yml"
        variables.write_bytes(orjson.dumps(self._variables))
        programs = Path(sys.executable).parent
        env = java_env() | self._env
        env["PATH"] = f"{programs}{os.pathsep}{env['PATH']}"
        argv: list[str | Path] = [programs / "ansible-rulebook", "--rulebook", self._rulebook]
        argv += ["--inventory", self._rulebooks / "inventory.yml", "--vars", variables]
        argv += ["--max-concurrent-actions", str(self._actions_max), "--shutdown-delay", "1"]
        if self._controller is not None:
            argv += ["--controller-url", self._controller[0]]
            argv += ["--controller-token", self._controller[1]]
        log = self.home / "eda.log"
        process = Process("eda", argv, log=log, env=env, cwd=self.home, detached=self._detached)
        self._process = process
        process.start()
        try:
            process.wait_ready(lambda: process.logged(ASSIGNED), timeout_s=READY_S)
        except BaseException:
            process.kill()
            raise

    def stop(self) -> None:
        """Stop it and whatever playbook it runs."""
        if self._process is not None:
            self._process.stop(timeout_s=5)

    def kill(self) -> None:
        """Kill -9, with the playbooks it runs."""
        self.process.kill()

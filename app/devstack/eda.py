"""ansible-rulebook as a child process, on the Java of a wheel, with our collection."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from app.devstack import paths
from app.devstack.kafka import java_env
from app.devstack.process import Process

READY_S: Final = 60.0
ASSIGNED: Final = re.compile(r"mcpbroker\.eda\.kafka: assigned [1-9]")


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
        actions_max: int = 20,
        env: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        self._home = home
        self._kafka = kafka
        self._group = group
        self._actions_max = actions_max
        self._detached = detached
        self._env = {
            "MCP_BROKER_URL": broker_url,
            "MCP_BROKER_TOKEN": token,
            "MCP_WORKSPACE": str(workspace),
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
        root = paths.checkout()
        self._home.mkdir(parents=True, exist_ok=True)
        variables = self._home / "eda-vars.yml"
        variables.write_bytes(
            orjson.dumps(
                {
                    "kafka_brokers": [self._kafka],
                    "kafka_group": self._group,
                    "playbooks": str(root / "playbooks"),
                }
            )
        )
        programs = Path(sys.executable).parent
        rulebooks = root / "rulebooks"
        env = java_env() | self._env
        env |= {
            "PATH": f"{programs}:{env['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(rulebooks / "collections"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_HOME": str(self._home / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        }
        log = self._home / "eda.log"
        seen = log.stat().st_size if log.exists() else 0
        argv: list[str | Path] = [programs / "ansible-rulebook"]
        argv += ["--rulebook", rulebooks / "rulebook_mcp.yml"]
        argv += ["--inventory", rulebooks / "inventory.yml", "--vars", variables]
        argv += ["--max-concurrent-actions", str(self._actions_max), "--shutdown-delay", "1"]
        self._process = Process(
            "eda", argv, log=log, env=env, cwd=self._home, detached=self._detached
        )
        self._process.start()

        def assigned() -> bool:
            with log.open("rb") as file:
                file.seek(seen)
                return ASSIGNED.search(file.read().decode(errors="replace")) is not None

        self._process.wait_ready(assigned, timeout_s=READY_S)

    def stop(self) -> None:
        """Stop it and whatever playbook it runs."""
        if self._process is not None:
            self._process.stop(timeout_s=5)

    def kill(self) -> None:
        """Kill -9, with the playbooks it runs."""
        self.process.kill()

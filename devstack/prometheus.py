"""The machine's own Prometheus, on loopback, with the shipped rules and a stack's parts."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from app import assets
from devstack.postgres import free_port
from devstack.process import Process

READY: Final = re.compile(rb"Server is ready to receive web requests")
READY_S: Final = 30.0
RULES: Final = ("alerts.yml", "slo.yml")


def found() -> bool:
    """Whether there is one, in the PATH."""
    return shutil.which("prometheus") is not None


class LocalPrometheus:
    """One server, its configuration and its data, in a folder of the stack's."""

    def __init__(
        self,
        home: Path,
        targets: Mapping[str, int],
        *,
        every_s: float = 5.0,
        detached: bool = False,
        features: Sequence[str] = ("exemplar-storage",),
    ) -> None:
        """`targets` are the parts' ports for metrics, by the name of the job."""
        self.home = home / "prometheus"
        self._targets = targets
        self._every_s = every_s
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = Process(
            "prometheus",
            [
                "prometheus",
                f"--config.file={self.home / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.home / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                f"--enable-feature={','.join(features)}",
            ],
            log=home / "prometheus.log",
            detached=detached,
        )

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            FileNotFoundError: there is none in the PATH.
            NotReadyError: it ended, or does not answer.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "prometheus.yml").write_text(yaml.safe_dump(self._config()))
        self.process.start()
        self.process.wait_ready(lambda: self.process.logged(READY), timeout_s=READY_S)

    def stop(self) -> None:
        """End it; its data stays with the folder."""
        self.process.stop()

    def _config(self) -> dict[str, object]:
        every = f"{round(self._every_s * 1000)}ms"
        return {
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [str(assets.root() / "deploy" / name) for name in RULES],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                for job, port in self._targets.items()
            ],
        }

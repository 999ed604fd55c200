"""kafka.py: commands from the MCP broker as events, with the options of ansible.eda.kafka.

It runs within ansible-rulebook, which holds it back while `--max-concurrent-actions` run. What
it promises (docs/ADAPTERS.md has the whole):

- An event's offset is committed after the rule engine has taken the event, not after its action
  has ended. What a crash loses in between, the broker sends again as its claim does not come.
- While the engine is held back at most one record is handed over and not yet taken, and none of
  those that the consumer has fetched ahead is committed.
- No record is dropped: what is not a JSON object becomes {"unparseable": "<its first bytes>"}.
- An event has nothing that stops the rules, or that is a template to Ansible, whoever wrote it:
  it is what mcpbroker.eda.inert lets through.
"""

import asyncio
import contextlib
import json
import logging
import math
import runpy
import ssl
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.helpers import create_ssl_context

DOCUMENTATION = """
short_description: Commands from the MCP broker as events
description:
  - Has the options of ansible.eda.kafka, and drops no record.
author: The MCP broker authors (@mcpbroker)
options:
  host: {description: "Broker; with port."}
  port: {description: "Broker's port.", default: 9092}
  brokers: {description: "List of host:port, instead of host and port."}
  topic: {description: "One of topic, topics and topic_pattern is required."}
  topics: {description: "List of topics."}
  topic_pattern: {description: "Regular expression of topics."}
  group_id: {description: "Processes of one group share the partitions.", default: mcp-broker-eda}
  offset: {description: "Where a new group starts.", choices: [earliest, latest], default: earliest}
  encoding: {description: "Of headers and values.", default: utf-8}
  message_format: {description: "What a record is.", choices: [json], default: json}
  metadata_max_age_ms: {description: "How soon new topics and partitions are seen.", default: 5000}
  security_protocol:
    description: How Kafka is reached.
    choices: [PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL]
    default: PLAINTEXT
  cafile: {description: "Authorities of the brokers' certificates."}
  certfile: {description: "This client's certificate."}
  keyfile: {description: "Its key."}
  password: {description: "The key's."}
  check_hostname: {description: "Whether a broker's certificate names its host.", default: true}
  verify_mode:
    description: Whether a broker has to have a certificate.
    choices: [CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED]
    default: CERT_REQUIRED
  sasl_mechanism: {description: "How to log in, with a SASL protocol.", default: PLAIN}
  sasl_plain_username: {description: "Who logs in by PLAIN or SCRAM."}
  sasl_plain_password: {description: "With which password."}
  sasl_plain_password_file: {description: "Read at each start, in place of sasl_plain_password."}
  sasl_kerberos_service_name: {description: "The brokers' service, for GSSAPI.", default: kafka}
  sasl_kerberos_domain_name: {description: "Their domain, for GSSAPI."}
  feedback:
    description: Commit when the engine acknowledges; it wants ansible-rulebook's --persistence-id.
    default: false
  feedback_timeout: {description: "Accepted and not needed: a busy engine may take its time."}
"""

logger = logging.getLogger("mcpbroker.eda.kafka")

COMMIT_S = 1.0
STOP_S = 5.0
RESTART_S = 5.0
RETRY_MAX_S = 30.0
# A full engine holds the source for as long as its adapters run, and a group must not lose a
# member for being busy; the heartbeat goes on meanwhile.
POLL_INTERVAL_MS = 7 * 24 * 3600 * 1000
DIGITS_MAX = 20
COORDINATES = uuid.NAMESPACE_OID
INERT = runpy.run_path(str(Path(__file__).parents[1] / "event_filter" / "inert.py"))


class Ledger(ConsumerRebalanceListener):
    """Knows which records the engine has taken, and commits them; also before they move away."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._waiting: Any = None
        self._taken: dict[TopicPartition, int] = {}
        self._committed_at = 0.0

    def handed_over(self, record: Any) -> None:
        """A record is in the engine's queue. It holds one: the one before has been taken."""
        self.all_taken()
        self._waiting = record

    def all_taken(self) -> None:
        """The engine's queue is empty."""
        if self._waiting is not None:
            place = TopicPartition(self._waiting.topic, self._waiting.partition)
            self._taken[place] = self._waiting.offset + 1
            self._waiting = None

    async def commit_if_due(self) -> None:
        """Commit what was taken, once a second."""
        now = asyncio.get_running_loop().time()
        if now - self._committed_at >= COMMIT_S:
            self._committed_at = now
            await self.commit()

    async def commit(self) -> None:
        """Commit what was taken; what fails is tried with the next."""
        mine = self._consumer.assignment()
        offsets = {place: offset for place, offset in self._taken.items() if place in mine}
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except (KafkaError, IllegalStateError) as error:
            logger.warning("offsets are not committed yet: %r", error)
            return
        for place, offset in offsets.items():
            if self._taken.get(place) == offset:
                del self._taken[place]

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Commit, so that the next owner starts after what was taken here."""
        await self.commit()
        for place in revoked:
            self._taken.pop(place, None)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Say so, which tells whoever started this process that it is ready."""
        print(f"mcpbroker.eda.kafka: assigned {len(assigned)} partitions", flush=True)


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Feed the rule engine until cancelled."""
    args = given(args)
    _check(args)
    await keep_reading(args, lambda consumer: _read(queue, consumer, args))


async def keep_reading(
    args: dict[str, Any], read: Callable[[AIOKafkaConsumer], Awaitable[None]]
) -> None:
    """Read until cancelled: what fails is logged, and begun anew.

    Raises:
        KafkaError: Kafka answers, and takes no such client: a setting is wrong.
    """
    while True:
        consumer = await started(args)
        try:
            try:
                await read(consumer)
            finally:
                await consumer.stop()
        except Exception:  # one record must not end the source, and ansible-rulebook with it
            logger.exception("a source has failed, and is started again in %s s", RESTART_S)
        await asyncio.sleep(RESTART_S)


async def _read(
    queue: asyncio.Queue[Any], consumer: AIOKafkaConsumer, args: dict[str, Any]
) -> None:
    ledger = Ledger(consumer)
    topics = args.get("topics") or [args.get("topic")]
    pattern = args.get("topic_pattern")
    consumer.subscribe(topics=() if pattern else topics, pattern=pattern, listener=ledger)
    try:
        await _feed(queue, consumer, ledger, args)
    finally:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ledger.commit(), STOP_S)


async def _feed(
    queue: asyncio.Queue[Any], consumer: AIOKafkaConsumer, ledger: Ledger, args: dict[str, Any]
) -> None:
    feedback = args.get("eda_feedback_queue")
    encoding = args.get("encoding", "utf-8")
    engine: asyncio.Queue[Any] = getattr(queue, "queue", queue)  # behind the event filters
    while True:
        record = await next_record(consumer)
        if record is not None:
            await _hand_over(queue, event_of(record, encoding), ledger)
            ledger.handed_over(record)
        if feedback is not None and record is not None:
            await feedback.get()
            ledger.all_taken()
        elif engine.empty():
            ledger.all_taken()
        await ledger.commit_if_due()


async def _hand_over(queue: asyncio.Queue[Any], event: dict[str, Any], ledger: Ledger) -> None:
    """Put an event into the engine's queue; waits, and goes on committing, while it is full."""
    putting = asyncio.create_task(queue.put(event))
    try:
        while not putting.done():
            await asyncio.wait({putting}, timeout=COMMIT_S)
            await ledger.commit_if_due()
    finally:
        putting.cancel()
    await putting


async def next_record(consumer: AIOKafkaConsumer) -> Any:
    """The next record, or None after a second without one."""
    try:
        found = await consumer.getmany(timeout_ms=int(COMMIT_S * 1000), max_records=1)
    except KafkaError as error:
        if not error.retriable:
            raise
        logger.warning("Kafka is away: %r", error)
        await asyncio.sleep(COMMIT_S)
        return None
    return next((record for records in found.values() for record in records), None)


def event_of(record: Any, encoding: str = "utf-8") -> dict[str, Any]:
    """A record as an event: body, and meta with its headers, uuid, time and place."""
    place = f"{record.topic}:{record.partition}:{record.offset}"
    headers = {name: (value or b"").decode(encoding, "replace") for name, value in record.headers}
    body: Any = body_of(record.value, encoding)
    if body is None:
        logger.error("no command, but something else, at %s", place)
        body = record.value
    meta: dict[str, Any] = {"headers": headers, "source_offset": place}
    try:
        at = datetime.fromtimestamp((record.timestamp or 0) / 1000, tz=timezone.utc)
        meta["produced_at"] = at.isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        pass  # whoever writes the record writes its time, and may write any
    try:
        meta["uuid"] = str(uuid.UUID(headers["message_uuid"]))
    except (KeyError, ValueError):
        meta["uuid"] = str(uuid.uuid5(COORDINATES, place))
    return INERT["main"]({"body": body, "meta": meta})


def body_of(value: bytes | None, encoding: str) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        body = json.loads((value or b"").decode(encoding), parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) and body else None


def _integer(digits: str) -> float:
    # Python refuses to read 5,000 digits, and with them the whole record.
    return int(digits) if len(digits) <= DIGITS_MAX else math.nan


async def started(args: dict[str, Any]) -> AIOKafkaConsumer:
    """A consumer that has reached Kafka; waits while Kafka is away."""
    pause_s = 1.0
    while True:
        consumer = _consumer(args)
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            if not error.retriable:
                raise
            logger.warning("Kafka is away, trying again in %s s: %r", pause_s, error)
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 2)
        else:
            return consumer


def _consumer(args: dict[str, Any]) -> AIOKafkaConsumer:
    tls = _tls(args)
    protocol = args.get("security_protocol", "PLAINTEXT")
    return AIOKafkaConsumer(
        bootstrap_servers=args.get("brokers") or f"{args['host']}:{args.get('port', 9092)}",
        group_id=args.get("group_id", "mcp-broker-eda"),
        auto_offset_reset=args.get("offset", "earliest"),
        enable_auto_commit=False,
        metadata_max_age_ms=int(args.get("metadata_max_age_ms", 5000)),
        max_poll_interval_ms=POLL_INTERVAL_MS,
        security_protocol=protocol if tls is None else protocol.replace("PLAINTEXT", "SSL"),
        ssl_context=tls,
        sasl_mechanism=args.get("sasl_mechanism", "PLAIN"),
        sasl_plain_username=args.get("sasl_plain_username"),
        sasl_plain_password=_password(args),
        sasl_kerberos_service_name=args.get("sasl_kerberos_service_name", "kafka"),
        sasl_kerberos_domain_name=args.get("sasl_kerberos_domain_name"),
    )


def _password(args: dict[str, Any]) -> str | None:
    if file := args.get("sasl_plain_password_file"):
        return Path(file).read_text(encoding="utf-8").strip()
    return args.get("sasl_plain_password")


def _tls(args: dict[str, Any]) -> ssl.SSLContext | None:
    files = {name: args.get(name) for name in ("cafile", "certfile", "keyfile")}
    if not any(files.values()) and not args.get("security_protocol", "").endswith("SSL"):
        return None
    context = create_ssl_context(**files, password=args.get("password"))
    context.check_hostname = bool(args.get("check_hostname", True))
    mode = ssl.VerifyMode[args.get("verify_mode", "CERT_REQUIRED")]
    if mode is ssl.CERT_NONE:
        context.check_hostname = False
    context.verify_mode = mode
    return context


def given(args: dict[str, Any]) -> dict[str, Any]:
    """The options that are set: a rulebook's variable that is not is an empty string."""
    return {name: value for name, value in args.items() if value != ""}


def _check(args: dict[str, Any]) -> None:
    if sum(args.get(name) is not None for name in ("topic", "topics", "topic_pattern")) != 1:
        raise ValueError("one of topic, topics and topic_pattern is required")
    if not args.get("brokers") and not args.get("host"):
        raise ValueError("host (and port), or brokers, is required")
    if args.get("offset", "earliest") not in {"earliest", "latest"}:
        raise ValueError(f"offset is earliest or latest, not {args['offset']!r}")
    if args.get("message_format", "json") != "json":
        raise ValueError("message_format: only json")

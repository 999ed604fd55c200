"""kafka.py: commands from the MCP broker as events; a drop-in for ansible.eda.kafka.

Arguments (as ansible.eda.kafka has them):
    host, port, or brokers (list of host:port)
    topic, topics or topic_pattern
    group_id: consumers of one group share the partitions (default mcp-broker-eda)
    offset: where a new group starts, earliest (default) or latest
    security_protocol, cafile, certfile, keyfile, password, check_hostname, verify_mode
    sasl_mechanism, sasl_plain_username, sasl_plain_password
    feedback: accepted; the rule engine's acknowledgement is awaited where it is true

An offset is committed after the rule engine has taken the event. The engine takes no more than
`--max-concurrent-actions` at a time, so this holds back with it. An event that is lost between
that commit and the adapter's claim is sent again by the broker when the claim does not come.

A record that is not a JSON object is handed on as {"unparseable": "<first bytes>"}: rules see it,
and none of the commands' rules takes it.
"""

import asyncio
import json
import logging
import ssl
import uuid
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.helpers import create_ssl_context

logger = logging.getLogger(__name__)

COMMIT_S = 1.0
SHOWN_BYTES = 200
FEEDBACK_S = 120


class Joined(ConsumerRebalanceListener):
    """Says when partitions came, which tells whoever started this that it is ready."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Nothing: offsets are committed as they go."""

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Say so."""
        print(f"mcpbroker.eda.kafka: assigned {len(assigned)} partitions", flush=True)


def _tls(args: dict[str, Any]) -> ssl.SSLContext | None:
    if "SSL" not in args.get("security_protocol", "PLAINTEXT"):
        return None
    context = create_ssl_context(
        cafile=args.get("cafile"),
        certfile=args.get("certfile"),
        keyfile=args.get("keyfile"),
        password=args.get("password"),
    )
    context.check_hostname = bool(args.get("check_hostname", True))
    if args.get("verify_mode") == "CERT_NONE":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _consumer(args: dict[str, Any]) -> AIOKafkaConsumer:
    brokers = args.get("brokers") or f"{args.get('host')}:{args.get('port', 9092)}"
    return AIOKafkaConsumer(
        bootstrap_servers=brokers,
        group_id=args.get("group_id") or "mcp-broker-eda",
        auto_offset_reset=args.get("offset", "earliest"),
        enable_auto_commit=False,
        max_poll_records=1,
        # Topics and partitions that are made after the start are seen after this.
        metadata_max_age_ms=5000,
        # Back pressure can hold the loop for as long as the longest adapter; the heartbeat
        # goes on meanwhile, and a group must not be lost for being busy.
        max_poll_interval_ms=24 * 3600 * 1000,
        security_protocol=args.get("security_protocol", "PLAINTEXT"),
        ssl_context=_tls(args),
        sasl_mechanism=args.get("sasl_mechanism", "PLAIN"),
        sasl_plain_username=args.get("sasl_plain_username"),
        sasl_plain_password=args.get("sasl_plain_password"),
    )


def _event(record: Any) -> dict[str, Any]:
    headers = {name: value.decode(errors="replace") for name, value in record.headers or ()}
    try:
        body = json.loads(record.value)
        if not isinstance(body, dict) or not body:
            raise ValueError("not a JSON object")
    except (TypeError, ValueError, UnicodeDecodeError):
        body = {"unparseable": repr((record.value or b"")[:SHOWN_BYTES])}
    meta: dict[str, Any] = {
        "headers": headers,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
    }
    try:
        meta["uuid"] = str(uuid.UUID(headers.get("message_uuid", "")))
    except ValueError:
        logger.warning("a record without message_uuid at %s", meta)
    return {"body": body, "meta": meta}


async def main(queue: asyncio.Queue[Any], args: dict[str, Any]) -> None:
    """Feed the rule engine until cancelled."""
    feedback = args.get("eda_feedback_queue")
    consumer = _consumer(args)
    if args.get("topic_pattern"):
        topics, pattern = (), args["topic_pattern"]
    else:
        topics, pattern = args.get("topics") or [args["topic"]], None
    await consumer.start()
    try:
        consumer.subscribe(topics=topics, pattern=pattern, listener=Joined())
        done: dict[TopicPartition, int] = {}
        committed_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                record = await asyncio.wait_for(consumer.getone(), COMMIT_S)
            except asyncio.TimeoutError:
                record = None
            if record is not None:
                # Waits while the engine is at its limit of actions.
                await queue.put(_event(record))
                if feedback is not None:
                    await asyncio.wait_for(feedback.get(), FEEDBACK_S)
                done[TopicPartition(record.topic, record.partition)] = record.offset + 1
            if done and loop.time() - committed_at >= COMMIT_S:
                mine = consumer.assignment()
                offsets = {place: offset for place, offset in done.items() if place in mine}
                if offsets:
                    await consumer.commit(offsets)
                done.clear()
                committed_at = loop.time()
    finally:
        await consumer.stop()

"""Settings of the relay: Kafka, dispatch, the timers, retention and the audit sealer."""

from pathlib import Path
from typing import Literal

from app.config.field import Count, Seconds, setting
from app.config.kafka import KafkaSettings


class RelaySettings(KafkaSettings):
    """What only the relay reads."""

    relay_pool_max: Count = setting(
        8,
        "The most connections for the outbox, the timers and the seals.",
        unit="connections",
        change="Rarely: it is one for each thing that a relay does at a time.",
    )
    kafka_create_topics: bool = setting(
        True,
        "Whether missing topics are created at start.",
        change="False where topics are made by somebody else.",
    )
    kafka_partitions: Count = setting(
        6,
        "The partitions of a topic that the relay creates.",
        unit="partitions",
        change="Raise it for more rulebook processes than this. Not of a topic that has commands:"
        " their order by key is by partition.",
    )
    kafka_replication: Count = setting(
        1,
        "The replicas of a topic that the relay creates.",
        unit="replicas",
        change="3 on a Kafka of three brokers and more.",
    )
    publish_timeout_s: Seconds = setting(
        20,
        "How long Kafka may take to acknowledge a batch; then the producer is replaced.",
        unit="seconds",
        change="Rarely; it stays below relay_lease_s.",
    )
    event_bytes_max: int = setting(
        900_000,
        "The largest value of an event in Kafka. What is larger goes without the result, error text"
        " or arguments, which are read from the app.",
        unit="bytes",
        change="With the topics' max.message.bytes, below which it stays.",
        ge=10_000,
    )
    relay_batch_max: Count = setting(
        500,
        "The most outbox rows of a batch.",
        unit="rows",
        change="Rarely: a smaller batch is published sooner, and the throughput is less.",
    )
    relay_lease_s: Seconds = setting(
        30,
        "The relay's lease on outbox rows: rows of a relay that died are free after this.",
        unit="seconds",
        change="Rarely: it bounds how long a relay's death delays its batches.",
    )
    dispatch_window: Count = setting(
        40,
        "The most commands of a tool that are dispatched and not claimed yet, where its catalog"
        " entry sets no in_flight_max (of those that run, too). One place in eight is spared for"
        " tenants that have none of it in flight.",
        unit="commands",
        change="To about what the executor takes on within a tenth of a second.",
    )
    claim_wait_s: Seconds = setting(
        120,
        "How long a dispatched command may stay unclaimed before it is sent again; doubled each"
        " time.",
        unit="seconds",
        change="Raise it where commands wait longer in the rulebooks than this.",
    )
    aging_s: Seconds = setting(
        60,
        "How long a command waits to earn one priority tier.",
        unit="seconds",
        change="Raise it where urgent calls must stay ahead of old ones for longer.",
    )
    clock_s: Seconds = setting(
        0.5,
        "The period of the timers: deadlines, lost leases, redelivery.",
        unit="seconds",
        change="Rarely: it is how late they can be.",
    )
    keys_kept_s: Seconds = setting(
        7 * 86400,
        "How long an ended command keeps its idempotency key; then the key makes a new command.",
        unit="seconds",
        change="Raise it where clients retry for longer.",
    )
    dead_letters_kept_s: Seconds = setting(
        90 * 86400,
        "How long a dead letter waits to be redriven or discarded; then it is discarded.",
        unit="seconds",
        change="To the time within which somebody looks.",
    )
    purge_s: Seconds = setting(
        300,
        "The period of the purge of keys and bodies.",
        unit="seconds",
        change="Rarely: it is how late they can be purged.",
    )
    events_kept_s: Seconds | None = setting(
        None,
        "How long audit events are kept at least: no retirement of younger ones is sealed, whoever"
        " has signed the request for it. None: for ever.",
        unit="seconds",
        change="To what your rules on records ask for.",
    )
    seal_s: Seconds = setting(
        1,
        "The period of the audit sealer.",
        unit="seconds",
        change="Raise it for fewer, larger seals; what is not sealed yet is not proven yet.",
    )
    seal_keys: tuple[str, ...] = setting(
        (),
        "JSON list of the audit trail's signers: PEM files of Ed25519 keys, or"
        " package.module:function of a plug-in. None: the trail is not sealed.",
        change="Always in production; docs/AUDITORS.md says how to make and rotate keys.",
    )
    retention_keys: tuple[Path, ...] = setting(
        (),
        "JSON list of PEM files with the public keys of retention officers: whose requests for"
        " retirements are sealed. None: nothing is ever retired.",
        change="Where events are to go some day; docs/AUDITORS.md says how an officer makes a key.",
    )
    audit_log: str = setting(
        "mcpbroker",
        "The name of this broker in checkpoints.",
        change="Once, before the first seal, where an auditor has several brokers.",
    )
    anchor_file: Path | None = setting(
        None,
        "A file to which each seal's anchor is added, beside Kafka. None: only Kafka has anchors.",
        change="Where auditors keep anchors on storage of their own.",
    )
    gauges_s: Seconds = setting(
        10,
        "How often the relay counts what there is, for its metrics.",
        unit="seconds",
        change="Rarely: where very much is counted it rests longer by itself.",
    )
    webhook_timeout_s: Seconds = setting(
        15,
        "How long a receiver of webhooks may take to answer, its name's look-up included.",
        unit="seconds",
        change="Up to 30 for receivers that work before they answer; better is that they do not.",
        le=60,
    )
    webhook_links: Literal["api", "console"] = setting(
        "api",
        "Where the links in webhooks lead: the API, for programs, or the console's pages.",
        change="console, where people read them, in Slack for one, and the console is on.",
    )
    webhook_slots_max: Count = setting(
        64,
        "The most deliveries that this relay has under way.",
        unit="deliveries",
        change="Raise it where deliveries wait though their endpoints are well.",
    )
    webhook_slots_each_max: Count = setting(
        4,
        "The most deliveries of one endpoint that are under way; one, while it fails.",
        unit="deliveries",
        change="Raise it for few endpoints that are told very much.",
    )
    webhook_disable_after_s: Seconds = setting(
        5 * 86400,
        "How long an endpoint may take nothing; then it is disabled, which is audited.",
        unit="seconds",
        change="To how long a receiver may be away; deliveries are tried for 75 hours.",
    )
    webhook_kept_s: Seconds = setting(
        7 * 86400,
        "How long a delivery is listed after its end, and waits for a disabled endpoint.",
        unit="seconds",
        change="Lower it where very much is told; redelivery of one ends with it.",
    )

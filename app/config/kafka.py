"""Settings of whoever speaks Kafka: the relay and the worker."""

from pydantic_settings import BaseSettings

from app.config.field import setting
from app.trust import KafkaSecurity


class KafkaSettings(BaseSettings):
    """Where Kafka is, and how it lets one in."""

    kafka_bootstrap: str = setting(
        "127.0.0.1:9092",
        "The Kafka brokers to begin with, as host:port, comma separated.",
        change="Always.",
    )
    kafka_security: KafkaSecurity = setting(
        KafkaSecurity(),
        "How Kafka is reached, as JSON: security_protocol (PLAINTEXT, SSL, SASL_SSL), cafile,"
        " certfile, keyfile, key_password, sasl_mechanism, sasl_username, sasl_password or"
        " sasl_password_file.",
        change="Wherever Kafka is not on this machine.",
    )

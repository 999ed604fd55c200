"""The relay: a deployment of its own, and the only Python here that speaks Kafka."""

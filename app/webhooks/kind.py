"""What webhooks tell of, by the type that a receiver sees."""

from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What an operator's endpoint can be told of."""

    COMMAND_ENDED = "command.ended"
    SAGA_ENDED = "saga.ended"
    SAGA_WAITING = "saga.waiting"
    DEAD_LETTER = "dead_letter"
    APPROVAL_WAITING = "approval.waiting"
    APPROVAL_ESCALATED = "approval.escalated"


PING: Final = "webhook.ping"
"""A test of an operator's: sent once, whatever the endpoint wants."""
VERIFICATION: Final = "verification"
"""The challenge of an MCP client's endpoint: sent once, before anything else."""
PROBES: Final = (PING, VERIFICATION)
"""Sent to endpoints that are disabled, too, and never again."""

GONE: Final = "gone"
FAILING: Final = "failing"
UNVERIFIED: Final = "unverified"
"""Why the broker has an endpoint disabled; an operator gives a reason of their own."""

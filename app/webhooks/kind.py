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
GAP: Final = "gap"
TERMINATED: Final = "terminated"
CONTROLS: Final = (VERIFICATION, GAP, TERMINATED)
"""What an MCP client's endpoint is told that is no event (SEP-3415)."""
NO_EVENTS: Final = (*PROBES, GAP, TERMINATED)
"""Sent to endpoints that are disabled, too; no position in the trail is theirs."""

GONE: Final = "gone"
FAILING: Final = "failing"
UNVERIFIED: Final = "unverified"
"""Why the broker has an endpoint disabled; an operator gives a reason of their own."""

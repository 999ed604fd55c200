"""What may be taken from the log, asked for by somebody outside the database: a signed request.

Neither the database nor the relay can make one. A retention officer signs it with a key of their
own (Ed25519), the relay seals a retirement only with such a request in hand, and whoever verifies
the log with the officer's public key finds what is missing without one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.audit import note as audit_note

TAG: Final = "mcpbroker.audit.request.v1"
REASON_MAX: Final = 1000


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: UUID
    asked_at: AwareDatetime
    reason: str = Field(min_length=1, max_length=REASON_MAX)


class Retire(_Asked):
    """Events of every tenant that are older than this may go."""

    kind: Literal["retire"] = "retire"
    before: AwareDatetime


class Month(BaseModel):
    """Which events of a month an erasure blanks: how many, and SHA-256 over their sorted ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int
    digest: str


class Erase(_Asked):
    """What these events of a tenant hold of a person may go; the person has no name here."""

    kind: Literal["erase"] = "erase"
    tenant_id: str
    months: dict[str, Month]


class Restore(_Asked):
    """A tenant's log goes on from an earlier state: what was sealed behind that is given up."""

    kind: Literal["restore"] = "restore"
    tenant_id: str
    after_seal: int = Field(ge=0)  # the last that both pasts have
    lost_seal: int  # the last that was published of the past that is given up
    lost_digest: str = Field(pattern="^[0-9a-f]{64}$")


Asked = Retire | Erase | Restore
ASKED: Final[TypeAdapter[Asked]] = TypeAdapter(Annotated[Asked, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it was read: whose log it is for, what it asks, and the note it stands in."""

    log: str
    asked: Asked
    note: str

    def signers(self, keys: Mapping[str, bytes]) -> frozenset[str]:
        """Which of these keys have signed it."""
        return audit_note.signers_of(self.note, keys)


def text_of(asked: Asked, *, log: str) -> str:
    """What an officer signs."""
    fields = asked.model_dump(mode="json")
    return f"{TAG}\n{log}\n{json.dumps(fields, sort_keys=True, separators=(',', ':'))}\n"


def parse(note: str | None) -> Request | None:
    """The request of a note, whoever signed it; None where it is no request."""
    lines = audit_note.note_text(note or "").split("\n")
    if len(lines) != 4 or lines[0] != TAG or lines[3]:  # noqa: PLR2004 tag, log, JSON, nothing
        return None
    try:
        asked = ASKED.validate_json(lines[2])
    except (ValidationError, ValueError):
        return None
    return Request(log=lines[1], asked=asked, note=note or "")


def begins_month(at: datetime) -> bool:
    """Whether it is the first instant of a month, UTC: events leave in whole months."""
    return at.astimezone(UTC) == month_of(at)


def month_of(at: datetime) -> datetime:
    """The first instant of a time's month, UTC."""
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def retirement_fault(
    note: str | None,
    *,
    log: str,
    keys: Mapping[str, bytes] | None,
    before: datetime,
    at: datetime,
    kept_s: float,
) -> str | None:
    """Why a note does not let events before a date go at a time; None where it does.

    Without keys everything but its signature is judged.
    """
    found = parse(note)
    reason = None
    if found is None or not isinstance(found.asked, Retire):
        reason = "there is no request of a retention officer for it"
    elif found.log != log:
        reason = f"its request is for another log, {found.log}"
    elif keys is not None and not found.signers(keys):
        reason = "its request is not signed by a known retention key"
    elif before > found.asked.before:
        reason = f"its request is for events before {found.asked.before} only"
    elif not begins_month(before):
        reason = "it does not end with a month"
    elif before > at - timedelta(seconds=kept_s):
        reason = f"events are to be kept longer than that: {kept_s:g} s"
    return reason

"""A tenant's log as a file: NDJSON that holds all that its verification needs.

A line says what it is by `line`: `bundle` first; each `key` that the database knows; `retirement`,
the newest seal of that kind, if there is one; `base`, the seal before the first one, where the log
is not exported from its start; then each `seal` with its `member` lines behind it; `end`. Anchors
from Kafka are NDJSON too, without a header.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
)

from app.audit.anchoring import Anchor
from app.audit.event import Event
from app.audit.proof import Check, Member, Report, SignedSeal
from app.audit.seal import Kind, Seal

VERSION: Final = 4


class BundleError(Exception):
    """The file is not what it should be; nothing is said of the log."""


def _unhex(value: Any) -> Any:
    return bytes.fromhex(value) if isinstance(value, str) else value


Hex = Annotated[bytes, BeforeValidator(_unhex), PlainSerializer(bytes.hex, when_used="json")]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class HeaderLine(_Line):
    """What the bundle is of."""

    line: Literal["bundle"] = "bundle"
    version: Literal[1, 2, 3, 4] = VERSION
    tenant_id: str
    exported_at: AwareDatetime
    retired_before: AwareDatetime | None = None  # of earlier versions; nobody signed it
    whole: bool = True  # of earlier versions; nobody signed it


class KeyLine(_Line):
    """A public key that the database knows. A reader had better pin their own."""

    line: Literal["key"] = "key"
    key_id: str
    public_key: Hex


class SealLine(_Line):
    """A seal."""

    line: Literal["base", "seal", "retirement"] = "seal"
    tenant_id: str
    seal_no: int
    kind: Kind
    seq_from: int
    seq_to: int
    retired_before: AwareDatetime | None
    root: Hex
    frontier: Hex
    previous: Hex
    key_id: str
    sealed_at: AwareDatetime
    checkpoint: str
    digest: Hex
    attestation: str
    request: str | None = None
    retired_digest: Hex | None = None
    transactions: Hex | None = None

    def signed_seal(self) -> SignedSeal:
        """What a check takes."""
        seal = Seal(**{name: getattr(self, name) for name in Seal.__slots__})
        return SignedSeal(seal=seal, digest=self.digest, attestation=self.attestation)


class EventFields(_Line):
    """An event; `body` is its JSON as text, because its leaf is over those very bytes."""

    event_id: UUID
    occurred_at: AwareDatetime
    tenant_id: str
    type: str
    actor: str
    user_id: str | None
    command_id: UUID | None
    saga_id: UUID | None
    tool: str | None
    method: str | None
    attempt: int | None
    state_from: str | None
    state_to: str | None
    fingerprint: Hex | None
    body: str
    salt: Hex | None = None
    commitment: Hex | None = None
    erased_by: UUID | None = None


class MemberLine(_Line):
    """A leaf in its place; without its event where that was retired."""

    line: Literal["member"] = "member"
    seq: int
    event_id: UUID
    occurred_at: AwareDatetime
    leaf: Hex
    xid: int | None = None
    event: EventFields | None

    def member(self) -> Member:
        """What a check takes."""
        event = None if self.event is None else Event(**dict(self.event))
        return Member(
            seq=self.seq,
            event_id=self.event_id,
            occurred_at=self.occurred_at,
            leaf=self.leaf,
            xid=self.xid,
            event=event,
        )


class EndLine(_Line):
    """The file is whole."""

    line: Literal["end"] = "end"
    seals: int
    members: int


Line = HeaderLine | KeyLine | SealLine | MemberLine | EndLine
LINE: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="line")])


class AnchorLine(BaseModel):
    """A message of mcp.audit, with where Kafka has it; further fields are passed over."""

    tenant_id: str
    seal_no: int
    digest: Hex
    attestation: str

    def anchor(self) -> Anchor:
        """What a check takes."""
        return Anchor(**dict(self))


def seal_line(
    found: SignedSeal, *, line: Literal["base", "seal", "retirement"] = "seal"
) -> SealLine:
    """A seal as a line."""
    fields = {name: getattr(found.seal, name) for name in Seal.__slots__}
    return SealLine(
        line=line,
        digest=found.digest,
        attestation=found.attestation,
        **fields,
    )


def parse(lines: Iterable[bytes]) -> Iterator[Line]:
    """Each line of a bundle.

    Raises:
        BundleError: a line is not of a bundle.
    """
    for number, text in enumerate(lines, 1):
        try:
            yield LINE.validate_json(text)
        except (ValidationError, ValueError) as error:
            raise BundleError(f"line {number} is not of a bundle: {error}") from error


def parse_anchors(lines: Iterable[bytes]) -> Iterator[Anchor]:
    """Each anchor of a file; a line that a crash has torn is made up for by every later one.

    Raises:
        BundleError: a line is not an anchor.
    """
    for number, text in enumerate(lines, 1):
        try:
            json.loads(text)
        except ValueError:
            continue
        try:
            yield AnchorLine.model_validate_json(text).anchor()
        except (ValidationError, ValueError) as error:
            raise BundleError(f"line {number} is not an anchor: {error}") from error


def anchors_among(lines: Iterable[bytes]) -> Iterator[Anchor]:
    """Those of the lines that are anchors, whatever else is among them."""
    for text in lines:
        with suppress(ValueError):
            yield AnchorLine.model_validate_json(text).anchor()


def check(
    lines: Iterable[Line],
    *,
    keys: Mapping[str, bytes] | None,
    anchors: Iterable[Anchor] = (),
    retention_keys: Mapping[str, bytes] | None = None,
    kept_s: float = 0,
) -> tuple[HeaderLine, Report]:
    """Check a whole bundle; without keys of the reader's own, against those it brings itself.

    Raises:
        BundleError: it has no header or no end, or lines are missing.
    """
    rest = iter(lines)
    header = next(rest, None)
    if not isinstance(header, HeaderLine):
        raise BundleError("the first line is not the header of a bundle")
    brought: dict[str, bytes] = {}
    line = next(rest, None)
    while isinstance(line, KeyLine):
        brought[line.key_id] = line.public_key
        line = next(rest, None)
    checking = Check(
        header.tenant_id,
        keys=brought if keys is None else keys,
        anchors=anchors,
        pinned=keys is not None,
        retention_keys=retention_keys,
        kept_s=kept_s,
    )
    if isinstance(line, SealLine) and line.line == "retirement":
        checking.grant(line.signed_seal())
        line = next(rest, None)
    if isinstance(line, SealLine) and line.line == "base":
        checking.start_at(line.signed_seal())
        line = next(rest, None)
    return header, _checked(checking, line, rest)


def _checked(checking: Check, first: Line | None, rest: Iterator[Line]) -> Report:
    """Feed the seals and members behind the head of a bundle."""
    seals = members = 0
    line = first
    while line is not None:
        match line:
            case SealLine(line="seal"):
                seals += 1
                checking.add(line.signed_seal())
            case MemberLine():
                members += 1
                checking.add(line.member())
            case EndLine():
                if (line.seals, line.members) != (seals, members):
                    raise BundleError("lines are missing: the end counts more than there are")
                return checking.report()
            case HeaderLine() | KeyLine() | SealLine():
                raise BundleError(f"a line of {line.line} stands where none may")
        line = next(rest, None)
    raise BundleError("the end is missing: the file was cut")

"""A log against its anchors: what was published of its seals, by which a rewriting is found.

A past that an officer's request has given up is not missed: `rulings.Restores`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from app.audit import note as audit_note
from app.audit import seal as audit_seal
from app.audit.rulings import Restores

FORK: Final = "two signed seals of one number exist: the log was forked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What was published of a seal when it was made."""

    tenant_id: str
    seal_no: int
    digest: bytes
    attestation: str

    def signers(self, keys: Mapping[str, bytes]) -> frozenset[str]:
        """Which of these keys have signed it."""
        text = audit_seal.attestation_text(
            tenant_id=self.tenant_id, seal_no=self.seal_no, digest=self.digest
        )
        if audit_note.note_text(self.attestation) != text:
            return frozenset()
        return audit_note.signers_of(self.attestation, keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """Anchors of a seal's number that the log does not bear out."""

    reason: str
    seal_no: int
    seq: int | None


class Anchors:
    """The anchors of one tenant's log; each of its seals is shown to them."""

    def __init__(
        self, tenant_id: str, anchors: Iterable[Anchor], *, keys: Mapping[str, bytes], pinned: bool
    ) -> None:
        """Against keys that are not pinned anchors are believed as they are: they are all there is.

        Pinned ones have a say: anyone who can write to the topic could have put an anchor there.
        """
        self.unsigned = 0
        self.given_up = 0
        self._known: dict[int, frozenset[bytes]] = {}
        self._compared = set[int]()
        self._odd: dict[int, tuple[frozenset[bytes], Odd]] = {}
        for one in anchors:
            if one.tenant_id != tenant_id:
                continue
            if not one.signers(keys):
                self.unsigned += 1
                if pinned:
                    continue
            self._known[one.seal_no] = self._known.get(one.seal_no, frozenset()) | {one.digest}

    @property
    def compared(self) -> int:
        """How many seals of the log had an anchor."""
        return len(self._compared)

    def see(self, seal_no: int, digest: bytes, *, seq: int) -> None:
        """A seal of the log, and where it begins; what is odd is judged at the log's end."""
        known = self._known.get(seal_no)
        if known is None:
            return
        self._compared.add(seal_no)
        others = known - {digest}
        if others:
            rewritten = "seal is not the one that was published: the log was rewritten"
            reason = FORK if digest in known else rewritten
            self._odd[seal_no] = (others, Odd(reason=reason, seal_no=seal_no, seq=seq))

    def odd(self, restores: Restores, *, head: int, size: int) -> Odd | None:
        """The first that no restore explains, of a log that ends with a seal and a size."""
        self.given_up = 0
        for seal_no, known in self._known.items():
            if seal_no > head:
                reason = f"seal {seal_no} was published and is gone: the log was cut or rolled back"
                self._odd[seal_no] = (known, Odd(reason=reason, seal_no=seal_no, seq=size + 1))
            elif seal_no not in self._compared and len(known) > 1:
                odd = Odd(reason=FORK, seal_no=seal_no, seq=None)
                self._odd[seal_no] = (known - {min(known)}, odd)
        for seal_no, (others, odd) in sorted(self._odd.items(), key=lambda one: one[0]):
            if not restores.give_up(seal_no, others):
                return odd
            self.given_up += len(others)
        return None

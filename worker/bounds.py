"""How many calls may run at once: in all, by tenant, and by target. Taken before a claim is made.

A target's own limits are known only once a claim was answered. Until then one call goes there at a
time; from then on as many as the target's entry says.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from adapters.targets import Limits

Place = tuple[str | None, str | None]
"""A target: whose it is (None: shared), and its name."""

UNKNOWN: Final = "?"
"""In a place: whose target it is has yet to be told."""


@dataclass(slots=True, kw_only=True)
class Slot:
    """Room that a call has taken."""

    tenant: str
    name: str | None
    place: Place


class Bounds:
    """Counts what runs, and says whether more may."""

    def __init__(self, *, calls_max: int, per_tenant_max: int) -> None:
        self._calls_max = calls_max
        self._per_tenant_max = per_tenant_max
        self._of: dict[tuple[str, str], Place] = {}  # (tenant, name): which target that is
        self._limits: dict[Place, Limits] = {}
        self._tenants: Counter[str] = Counter()
        self._places: Counter[Place] = Counter()
        self._shares: Counter[tuple[Place, str]] = Counter()
        self.taken = 0

    def take(self, tenant: str, name: str | None) -> Slot | None:
        """Room for a call of a tenant at the target that it knows by this name; None: not now."""
        if self.taken >= self._calls_max or self._tenants[tenant] >= self._per_tenant_max:
            return None
        place = self._place(tenant, name)
        limits = self._limits.get(place)
        if name is not None:
            calls_max = 1 if limits is None else limits.calls_max
            share_max = None if limits is None else limits.calls_per_tenant_max
            if self._places[place] >= calls_max:
                return None
            if share_max is not None and self._shares[place, tenant] >= share_max:
                return None
        slot = Slot(tenant=tenant, name=name, place=place)
        self._add(slot, 1)
        return slot

    def settle(self, slot: Slot, owner: str | None, name: str, limits: Limits) -> None:
        """A claim was answered: this is its target, and these are its limits."""
        place = (owner, name)
        self._of[slot.tenant, name] = place
        self._limits[place] = limits
        if place != slot.place:
            self._add(slot, -1)
            slot.place = place
            self._add(slot, 1)

    def give_back(self, slot: Slot) -> None:
        """The call is over, or was not granted."""
        self._add(slot, -1)

    def _place(self, tenant: str, name: str | None) -> Place:
        """The target, as far as it is known: a shared one until a tenant's own is told."""
        if name is None:
            return (None, None)
        known = self._of.get((tenant, name))
        if known is not None:
            return known
        return (None, name) if (None, name) in self._limits else (UNKNOWN, name)

    def _add(self, slot: Slot, n: int) -> None:
        self.taken += n
        self._tenants[slot.tenant] += n
        self._places[slot.place] += n
        self._shares[slot.place, slot.tenant] += n
        for counter, key in (
            (self._tenants, slot.tenant),
            (self._places, slot.place),
            (self._shares, (slot.place, slot.tenant)),
        ):
            if not counter[key]:  # pyright: ignore[reportArgumentType]
                del counter[key]  # pyright: ignore[reportArgumentType]

"""Commands that Kafka has given and nobody has claimed yet: by target, first come first served."""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
from aiokafka import ConsumerRecord, TopicPartition

from worker.bounds import Bounds, Slot

ATTEMPT_MAX: Final = 2**31 - 1


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One record: an attempt that may be claimed."""

    place: TopicPartition
    offset: int
    correlation_id: str
    attempt: int
    tenant: str
    tool: str
    method: str
    target: str | None
    run: str
    """Names this run to the broker: a repeated claim by it has the same answer."""
    slot: Slot | None = field(default=None)

    @property
    def claim(self) -> dict[str, Any]:
        """As an item of a batch."""
        return {
            "op": "claim",
            "correlation_id": self.correlation_id,
            "attempt": self.attempt,
            "adapter": self.run,
            "tenant_id": self.tenant,
            "tool": self.tool,
            "method": self.method,
        }


def delivery(record: ConsumerRecord[bytes, bytes], *, worker: str) -> Delivery | None:
    """A record's attempt; None where it is no command. What else it holds is not believed."""
    try:
        body = orjson.loads(record.value or b"")
        headers = dict(record.headers)
        return Delivery(
            place=TopicPartition(record.topic, record.partition),
            offset=record.offset,
            correlation_id=str(UUID(body["correlation_id"])),
            attempt=_attempt(body["attempt"]),
            tenant=str(body["tenant_id"]),
            tool=str(body["tool"]),
            method=str(body["method"]),
            target=headers["target"].decode() if "target" in headers else None,
            run=f"{worker}:{uuid4()}",
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _attempt(said: object) -> int:
    """An attempt's number. Raises ValueError where it is none: no claim could be written of it."""
    if type(said) is not int or not 1 <= said <= ATTEMPT_MAX:
        raise ValueError("an attempt is a number from 1")
    return said


class Backlog:
    """What waits for room, in a queue for each tenant and target."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._queues: OrderedDict[tuple[str, str | None], deque[Delivery]] = OrderedDict()
        self._known: set[tuple[str, int]] = set()

    def __len__(self) -> int:
        return len(self._known)

    def add(self, one: Delivery) -> bool:
        """Have it wait; False where the same attempt waits already."""
        key = (one.correlation_id, one.attempt)
        if key in self._known:
            return False
        self._known.add(key)
        self._queues.setdefault((one.tenant, one.target), deque()).append(one)
        return True

    def take(self, most: int) -> list[Delivery]:
        """Those that have room now, one of each queue after the other; each has its slot."""
        found: list[Delivery] = []
        open_ = list(self._queues)
        while open_ and len(found) < most:
            for key in list(open_):
                queue = self._queues[key]
                slot = self._bounds.take(*key) if len(found) < most else None
                if slot is None:
                    open_.remove(key)
                    continue
                one = queue.popleft()
                one.slot = slot
                self._known.discard((one.correlation_id, one.attempt))
                found.append(one)
                if not queue:
                    del self._queues[key]
                    open_.remove(key)
        for key in {(one.tenant, one.target) for one in found} & self._queues.keys():
            self._queues.move_to_end(key)  # who had room goes last the next time
        return found

    def drop(self, places: Collection[TopicPartition]) -> None:
        """Forget what came from partitions that are somebody else's now."""
        self._keep(one for one in self._all() if one.place not in places)

    def clear(self) -> None:
        """Forget all: it is not claimed, so another worker gets it."""
        self._keep(())

    def _all(self) -> list[Delivery]:
        return [one for queue in self._queues.values() for one in queue]

    def _keep(self, kept: Iterable[Delivery]) -> None:
        kept = list(kept)
        self._queues.clear()
        self._known.clear()
        for one in kept:
            self.add(one)

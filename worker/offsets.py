"""Which records of each partition are dealt with, so that only those are committed."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from aiokafka import TopicPartition

OPEN: Final = False
DONE: Final = True


class Offsets:
    """Records end in any order; what is committed ends before the first that is open."""

    def __init__(self) -> None:
        self._records: dict[TopicPartition, OrderedDict[int, bool]] = {}
        self._next: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}

    def add(self, place: TopicPartition, offset: int) -> None:
        """A record came."""
        self._records.setdefault(place, OrderedDict())[offset] = OPEN

    def done(self, place: TopicPartition, offset: int) -> None:
        """A record is dealt with; one of a partition that was let go is nobody's any more."""
        records = self._records.get(place)
        if records is None or offset not in records:
            return
        records[offset] = DONE
        while records:
            first = next(iter(records))
            if records[first] is OPEN:
                break
            del records[first]
            self._next[place] = first + 1

    def due(self) -> Mapping[TopicPartition, int]:
        """What is to be committed now."""
        return {
            place: offset
            for place, offset in self._next.items()
            if self._committed.get(place) != offset
        }

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """They are."""
        self._committed |= offsets

    def forget(self, places: Iterable[TopicPartition]) -> None:
        """These partitions are somebody else's now."""
        for place in places:
            for kept in (self._records, self._next, self._committed):
                kept.pop(place, None)

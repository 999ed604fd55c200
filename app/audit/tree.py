"""The Merkle tree of RFC 6962 that can grow, and inclusion in it."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A Merkle tree that can grow: how many leaves, and its perfect subtrees, largest first."""

    size: int = 0
    frontier: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, size: int, packed: bytes) -> Self:
        """The tree that `packed` came from.

        Raises:
            ValueError: a tree of that size has another number of perfect subtrees.
        """
        if size < 0 or len(packed) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"a frontier of {len(packed)} bytes does not fit {size} leaves")
        parts = range(0, len(packed), HASH_BYTES)
        return cls(size=size, frontier=tuple(packed[at : at + HASH_BYTES] for at in parts))

    @property
    def packed(self) -> bytes:
        """The frontier as seals keep it."""
        return b"".join(self.frontier)

    @property
    def root(self) -> bytes:
        """The tree's hash, as RFC 6962 section 2.1 defines it."""
        if not self.frontier:
            return hashlib.sha256(b"").digest()
        found = self.frontier[-1]
        for left in reversed(self.frontier[:-1]):
            found = node(left, found)
        return found

    def grown(self, leaves: Iterable[bytes]) -> "Tree":
        """The tree with these leaves appended; costs about one hash a leaf, whatever its size."""
        stack = list(self.frontier)
        size = self.size
        for leaf in leaves:
            top, carry = leaf, size
            while carry & 1:  # two perfect subtrees of one size are one of twice the size
                top = node(stack.pop(), top)
                carry >>= 1
            stack.append(top)
            size += 1
        return Tree(size=size, frontier=tuple(stack))


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def included(leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the path proves the leaf at an index of the tree (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root

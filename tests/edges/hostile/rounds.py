"""One round: every kind of hostile value in one place of a request, together, and what came of it.

Beside them another tenant makes an ordinary call. Bodies come whole, in chunks, in halves of which
the second is late, and twice.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

from tests.edges.hostile.places import Pointer, at, spliced
from tests.edges.hostile.values import Value, same
from tests.edges.hostile.wire import Answer
from tests.edges.hostile.world import BOUND_S, Subject, World

FRAMES: Final = ("whole", "chunked", "late", "twice")
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Good:
    """A request that is taken."""

    about: Subject | None = None
    """What it is about: `{id}` in its path and its body."""
    shared: bool = False
    """Whether requests may be about the same: they change nothing, or making it takes long."""
    path: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Any = None
    """`{id}`, and `{key}` and `{key12}` (new for each request), stand in its texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a request a value stands."""

    kind: str
    """body, more or name (a field that there is not), path, query or header."""
    at: Pointer

    def __str__(self) -> str:
        return f"{self.kind} {'/'.join(map(str, self.at))}"

    @property
    def in_body(self) -> bool:
        """Whether it is read with the body."""
        return self.kind in {"body", "more"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it goes out."""

    method: str
    path: str
    headers: Headers
    body: bytes | None


class Door(Protocol):
    """One entrance: how it is asked, and what its answers mean."""

    @property
    def name(self) -> str:
        """To tell it by."""
        ...

    def asked(self, good: Good, place: Place, value: Value, subject: str, key: str) -> Asked:
        """The good request with this value in this place."""
        ...

    def refusal(self, answer: Answer) -> str | None:
        """Why it was refused, in a sentence or a code; None where it was taken."""
        ...

    def made(self, answer: Answer) -> str | None:
        """The id of the command or definition that an answer tells of having made."""
        ...

    def kept(self, place: Place) -> tuple[str, Pointer] | None:
        """A query (of $1, the id) for what the place's value was kept as, and where it was sent."""
        ...

    def well_formed(self, answer: Answer, shown: str) -> None:
        """Check that a client can act on an answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request and its answers, two where it was sent twice."""

    shown: str
    value: Value
    subject: UUID | None
    asked: Asked
    answers: list[Answer]
    taken: list[Answer]


async def one_round(
    world: World, door: Door, good: Good, place: Place, values: Mapping[str, Value], turn: int
) -> None:
    """Send each value in this place, and judge all that came of it."""
    since = await world.now()
    subjects: list[UUID | None] = [None] * len(values)
    if good.about is not None and good.shared:
        subjects = [await good.about(world)] * len(values)
    elif good.about is not None:
        subjects = [*await asyncio.gather(*(good.about(world) for _ in values))]
    before = await world.rows(since)
    go = asyncio.Event()

    async def neighbour() -> None:
        try:
            await world.neighbour(f"{door.name} {place}")
        finally:
            go.set()

    frames = itertools.islice(itertools.cycle(FRAMES), turn % len(FRAMES), None)
    sending = [
        send(world, door, good, place, named, subject, frame, go)
        for named, subject, frame in zip(values.items(), subjects, frames, strict=False)
    ]
    _, *sent = await asyncio.gather(neighbour(), *sending)
    after = await world.rows(since)
    taken: set[str] = set()
    for one in sent:
        assert isinstance(one, Sent)
        await judged(world, door, place, one)
        if not one.taken and good.about is not None and not good.shared:
            subject = str(one.subject)
            assert before[subject] == after[subject], f"refused, and changed: {one.shown}"
        taken |= {made for answer in one.taken if (made := door.made(answer))}
    known = before.keys() | taken
    assert after.keys() <= known, f"left behind: {door.name} {place}: {after.keys() - known}"


async def send(
    world: World,
    door: Door,
    good: Good,
    place: Place,
    named: tuple[str, Value],
    subject: UUID | None,
    frame: str,
    go: asyncio.Event,
) -> Sent:
    """Send one value, framed so."""
    label, value = named
    asked = door.asked(good, place, value, str(subject), str(uuid4()))
    shown = f"{door.name}, {place}, {frame}, {label}: {value}"
    pieces: bytes | list[bytes] | None = asked.body
    if asked.body and frame in {"chunked", "late"}:
        half = len(asked.body) // 2
        pieces = [asked.body[:half], asked.body[half:]]
    asking = [
        world.http.ask(
            asked.method, asked.path, asked.headers, pieces, go if frame == "late" else None
        )
        for _ in range(2 if frame == "twice" else 1)
    ]
    try:
        async with asyncio.timeout(BOUND_S):
            answers = await asyncio.gather(*asking)
    except (TimeoutError, OSError, EOFError) as error:
        raise AssertionError(f"{type(error).__name__}: {shown}") from error
    for one in answers:
        door.well_formed(one, shown)
    taken = [one for one in answers if door.refusal(one) is None]
    return Sent(
        shown=shown, value=value, subject=subject, asked=asked, answers=answers, taken=taken
    )


async def judged(world: World, door: Door, place: Place, one: Sent) -> None:
    """What was taken is what may be taken, came as it was sent, and was done once."""
    if one.value.refused and place.in_body:
        assert not one.taken, f"taken: {one.shown}: {one.taken[0].text[:500]}"
    made = {door.made(answer) for answer in one.taken}
    known = b"idempotency_key" in (one.asked.body or b"")
    known |= b"idempotency-key" in dict(one.asked.headers)
    if known and "key" not in str(place) and None not in made:
        assert len(made) <= 1, f"done twice: {one.shown}"
    query = door.kept(place)
    if query is None or not one.taken:
        return
    about = door.made(one.taken[0]) or str(one.subject)
    kept = json.loads(await world.asked(query[0], UUID(about)) or "null")
    sent = at(json.loads(one.asked.body or b"null"), query[1])
    if sent is not None:
        assert same(sent, kept), f"came as {ascii(kept)[:200]}: {one.shown}"


def filled(good: Any, subject: str, key: str) -> Any:
    """A good body, about this."""
    text = json.dumps(good).replace("{id}", subject).replace("{key}", key)
    return json.loads(text.replace("{key12}", key.replace("-", "")[:12]))


def body_of(good: Good, place: Place, value: Value, subject: str, key: str) -> bytes:
    """The body's text, with the value in its place if that is there."""
    made = filled(good.body, subject, key)
    if place.kind == "body":
        return spliced(made, place.at, value.written)
    if place.kind == "more":
        inner = at(made, place.at)
        inner["surprise"] = None
        return spliced(made, (*place.at, "surprise"), value.written)
    if place.kind == "name":
        text = value.written if value.written[:1] == b'"' else json.dumps(str(value)).encode()
        return json.dumps(made).encode()[:-1] + b", " + text + b": 1}"
    return json.dumps(made).encode()


def header(name: str, value: Value) -> tuple[bytes, bytes]:
    """A header of this value; what no HTTP server reads as one is left out."""
    said = bytes(one for one in value.bare if one >= 32 and one != 127)
    return name.encode(), said.strip()

"""Room is taken before a claim, and never more of it than total, tenant and target allow."""

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from adapters.targets import Limits
from worker.backlog import Backlog, Delivery
from worker.bounds import Bounds, Slot
from worker.offsets import Offsets

PLACE = TopicPartition("t", 0)


def delivery(n: int, tenant: str = "demo", target: str | None = "a") -> Delivery:
    return Delivery(
        place=PLACE,
        offset=n,
        correlation_id=str(n),
        attempt=1,
        tenant=tenant,
        tool="t",
        method="m",
        target=target,
        run=f"r{n}",
    )


def taken(bounds: Bounds, tenant: str, name: str | None) -> Slot:
    slot = bounds.take(tenant, name)
    assert slot is not None
    return slot


def test_a_target_that_is_not_known_yet_has_one_call_until_its_limits_are_told() -> None:
    bounds = Bounds(calls_max=10, per_tenant_max=10)
    first = taken(bounds, "demo", "a")
    assert bounds.take("demo", "a") is None
    assert bounds.take("other", "a") is None, "it may be the same"
    assert bounds.take("demo", "b") is not None, "another target"
    bounds.settle(first, None, "a", Limits(calls_max=3))
    assert [bounds.take("demo", "a") is not None for _ in range(3)] == [True, True, False]
    assert bounds.take("other", "a") is None, "the shared one, as far as is known"
    bounds.give_back(first)
    own = taken(bounds, "other", "a")
    bounds.settle(own, "other", "a", Limits(calls_max=1))
    assert bounds.take("other", "a") is None
    assert bounds.take("demo", "a") is not None, "the tenant's own target takes none of it"


def test_a_tenant_has_no_more_of_a_target_than_its_share() -> None:
    bounds = Bounds(calls_max=10, per_tenant_max=4)
    first = taken(bounds, "demo", "a")
    bounds.settle(first, None, "a", Limits(calls_max=5, calls_per_tenant_max=2))
    assert bounds.take("demo", "a") is not None
    assert bounds.take("demo", "a") is None
    assert bounds.take("other", "a") is not None
    assert [bounds.take("demo", None) is not None for _ in range(3)] == [True, True, False]


@given(st.lists(st.tuples(st.sampled_from("tu"), st.sampled_from("ab"), st.booleans())))
def test_what_is_given_back_is_there_again_whatever_happened(
    steps: list[tuple[str, str, bool]],
) -> None:
    bounds = Bounds(calls_max=5, per_tenant_max=3)
    slots: list[Slot] = []
    for tenant, name, takes in steps:
        if takes:
            slot = bounds.take(tenant, name)
            if slot is not None:
                slots.append(slot)
                bounds.settle(slot, None, name, Limits(calls_max=2))
        elif slots:
            bounds.give_back(slots.pop(0))
        assert bounds.taken == len(slots) <= 5
        for one in "tu":
            assert sum(slot.tenant == one for slot in slots) <= 3
    for slot in slots:
        bounds.give_back(slot)
    assert bounds.taken == 0
    assert taken(bounds, "t", "a")


def test_the_backlog_serves_each_target_in_turn_and_the_same_attempt_once() -> None:
    backlog = Backlog(Bounds(calls_max=3, per_tenant_max=10))
    assert [backlog.add(delivery(n)) for n in (1, 2, 3, 3)] == [True, True, True, False]
    backlog.add(delivery(9, target="b"))
    assert [one.offset for one in backlog.take(10)] == [1, 9], "one of each until limits are known"
    assert len(backlog) == 2
    backlog.drop([PLACE])
    assert len(backlog) == 0
    assert backlog.take(10) == []
    assert backlog.add(delivery(2)), "it may come again"


@given(st.permutations(range(6)))
def test_an_offset_is_due_once_all_before_it_are_done(order: list[int]) -> None:
    offsets = Offsets()
    for n in range(6):
        offsets.add(PLACE, 10 + n)
    over: set[int] = set()
    for n in order:
        offsets.done(PLACE, 10 + n)
        over.add(n)
        first = next((n for n in range(6) if n not in over), 6)
        assert offsets.due() == ({PLACE: 10 + first} if first else {})
    offsets.committed({PLACE: 16})
    assert offsets.due() == {}
    offsets.add(PLACE, 16)
    offsets.forget([PLACE])
    offsets.done(PLACE, 16)
    assert offsets.due() == {}, "it is another worker's partition now"

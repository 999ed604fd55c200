"""What may be written as a saga, and what is said of what may not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import assets
from app.errors import PROBLEMS_MAX, InvalidDefinitionError
from app.sagas.definition import StepKind, as_json
from app.sagas.parse import BYTES_MAX, STEPS_MAX, load, parse

EXAMPLE = assets.root() / "examples" / "service_saga.yml"
UNDO = {"tool": "t", "method": "undo"}


def step(step_id: str, **parts: Any) -> dict[str, Any]:
    return {"id": step_id, "tool": "t", "method": "do", "compensate": UNDO} | parts


def look(step_id: str, **parts: Any) -> dict[str, Any]:
    return {"id": step_id, "tool": "t", "method": "look", "kind": "readonly"} | parts


def final(step_id: str, kind: str, **parts: Any) -> dict[str, Any]:
    return {"id": step_id, "tool": "t", "method": "do", "kind": kind} | parts


def problems(data: Any) -> dict[str, str]:
    with pytest.raises(InvalidDefinitionError) as caught:
        parse(data)
    return {one["at"]: one["problem"] for one in caught.value.fields["problems"]}


def steps(*said: dict[str, Any]) -> dict[str, Any]:
    return {"name": "x", "steps": list(said)}


def test_the_shipped_example_is_read_and_written_back_alike() -> None:
    read = parse(load(EXAMPLE.read_text()), version=3)
    assert [(one.id, one.needs) for one in read.steps] == [
        ("provision", ()),
        ("configure", ("provision",)),
        ("enable", ("configure",)),
    ]
    assert parse(as_json(read), version=3) == read


def test_a_step_waits_for_the_one_before_it_unless_it_says_otherwise() -> None:
    read = parse(steps(look("a"), look("b"), look("c", needs=[]), look("d", needs=["a", "c"])))
    assert [one.needs for one in read.steps] == [(), ("a",), (), ("a", "c")]
    assert read.ancestors()["d"] == {"a", "c"}


def test_yaml_keeps_json_types_only() -> None:
    read = load("steps: [{id: a, tool: t, kind: readonly, args: {at: 2026-01-02, n: 1.5}}]")
    assert parse(read).steps[0].call.args == {"at": "2026-01-02", "n": 1.5}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps: [", "neither JSON nor YAML"),
        ("a: &x [1]\nb: [*x]", "line 2: write YAML aliases"),
        ("a: !!python/object:os.system {}", "neither JSON nor YAML"),
        ("steps: []\nname: a\nname: b", "'name' stands twice"),
        ("[" * BYTES_MAX, "nested deeper than 32"),
        ("x" * (BYTES_MAX + 1), "bytes; at most"),
    ],
    ids=["torn", "alias", "object", "twice", "deep", "large"],
)
def test_what_is_no_plain_yaml_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidDefinitionError, match=problem):
        load(text)


def nested(levels: int) -> Any:
    return "x" if levels == 0 else [nested(levels - 1)]


@pytest.mark.parametrize(
    ("data", "at", "problem"),
    [
        ([], "", "dictionary"),
        (steps(), "steps", "at least 1 item"),
        (steps(*(look(f"s{n}") for n in range(STEPS_MAX + 1))), "steps", f"at most {STEPS_MAX}"),
        (steps(look("a", tols="x")), "steps[0].tols", "extra inputs"),
        (steps(look("1a")), "steps[0].id", "pattern"),
        (steps(look("a", args={"x": nested(40)})), "", "nested deeper"),
        (steps(look("a", args={"x": float("nan")})), "", "not plain JSON"),
        (steps(look("a", args={"x": 2**70})), "", "not plain JSON"),
        (steps(look("a", args={"x": "\0"})), "", "NUL"),
        (steps(look("a"), look("a")), "steps[1].id", "stands twice"),
        (steps(look("a", needs=["b"])), "steps[0].needs", "there is no step 'b'"),
        (steps(look("a", needs=["a"])), "steps", "a waits for a"),
        (steps(look("a", needs=["b"]), look("b", needs=["a"])), "steps", "waits for"),
    ],
)
def test_what_has_not_the_shape_is_named_by_its_place(data: Any, at: str, problem: str) -> None:
    assert problem in problems(data)[at]


def test_of_very_many_problems_the_first_are_told() -> None:
    assert len(problems(steps(*(look("a") for _ in range(STEPS_MAX))))) == PROBLEMS_MAX


@pytest.mark.guarantee("saga:undoable")
@pytest.mark.parametrize(
    ("data", "at", "problem"),
    [
        (steps(step("a", compensate=None)), "steps[0]", "could not be undone"),
        (steps(look("a", compensate=UNDO)), "steps[0].compensate", "never undone"),
        (steps(final("a", "retriable")), "steps[0].kind", "after the pivot"),
        (steps(final("a", "pivot"), final("b", "pivot")), "steps", "a and b are pivots"),
        (
            steps(final("a", "pivot"), step("b")),
            "steps[1]",
            "could not be undone once 'a' is done",
        ),
        (
            steps(step("a"), final("b", "pivot", needs=[])),
            "steps[0]",
            "could not be undone once 'b' is done",
        ),
        (
            steps(final("a", "pivot"), final("b", "retriable", needs=[])),
            "steps[1].kind",
            "after the pivot",
        ),
    ],
)
def test_what_could_neither_be_undone_nor_go_on_is_refused(
    data: Any, at: str, problem: str
) -> None:
    assert problem in problems(data)[at]


def test_a_saga_with_a_point_of_no_return_is_read() -> None:
    read = parse(steps(step("a"), look("b"), final("c", "pivot"), final("d", "retriable")))
    assert read.pivot is not None
    assert read.pivot.id == "c"


@pytest.mark.parametrize(
    ("said", "at", "problem"),
    [
        ({"args": {"x": ["{{ steps.c.result }}"]}}, "steps[1].args.x[0]", "add it to `needs`"),
        ({"args": {"x": "{{ steps.b.result }}"}}, "steps[1].args.x", "only `compensate` may"),
        ({"args": {"x": "{{ steps.z.result }}"}}, "steps[1].args.x", "need not have ended"),
        ({"args": {"x": "{{ foo }}"}}, "steps[1].args.x", "begins with none"),
        ({"ordering_key": "{{ steps.c.result.x }}"}, "steps[1].ordering_key", "`needs`"),
        (
            {"compensate": UNDO | {"args": {"x": "{{ steps.b.result.id }}"}}},
            "steps[1].compensate.args.x",
            "when the step times out",
        ),
    ],
)
def test_a_reference_names_what_has_ended_by_then(
    said: dict[str, Any], at: str, problem: str
) -> None:
    assert problem in problems(steps(look("a"), step("b", **said), look("c")))[at]


def test_what_can_be_found_out_may_be_undone_by_its_result() -> None:
    undo = UNDO | {"args": {"x": "{{ steps.a.result.id }}"}}
    read = parse(steps(step("a", compensate=undo, reconcile={"tool": "t", "method": "look"})))
    assert read.steps[0].compensate is not None


@given(data=st.data())
def test_every_graph_that_is_read_can_be_run_in_some_order(data: st.DataObject) -> None:
    ids = [f"s{n}" for n in range(data.draw(st.integers(1, 6)))]
    said = [look(one, needs=data.draw(st.lists(st.sampled_from(ids), max_size=3))) for one in ids]
    try:
        read = parse(steps(*said))
    except InvalidDefinitionError as error:
        if "waits for" not in error.detail:
            raise
        return
    done: set[str] = set()
    while len(done) < len(ids):
        ready = [one.id for one in read.steps if one.id not in done and set(one.needs) <= done]
        assert ready, "no step can start"
        done |= set(ready)
    assert all(one.kind is StepKind.READONLY for one in read.steps)


@pytest.mark.parametrize("place", ["timeout_s", "deadline_s"])
@pytest.mark.parametrize("seconds", [1e300, 1e12, 10 * 365 * 86_400 + 1])
def test_a_time_that_postgres_does_not_know_is_refused(place: str, seconds: float) -> None:
    """A relay could never have begun that step: its saga's turn failed again and again."""
    one = look("a") | ({place: seconds} if place == "timeout_s" else {})
    whole = steps(one) | ({place: seconds} if place == "deadline_s" else {})
    assert "less than or equal to" in next(iter(problems(whole).values()))

"""Sagas of random shape."""

from typing import Any

from hypothesis import strategies as st


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """A graph of some steps, perhaps with a pivot and what comes after it."""
    steps: list[dict[str, Any]] = []
    before = draw(st.integers(1, 4))
    for number in range(before):
        names = [one["id"] for one in steps]
        needs = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        name = f"s{number}"
        one = {
            "id": name,
            "tool": draw(st.sampled_from(["lab_do", "lab_again"])),
            "args": {"text": name},
            "needs": needs,
            "compensate": {"tool": "lab_undo", "args": {"text": name}},
        }
        if draw(st.booleans()):
            one["ordering_key"] = draw(st.sampled_from(["k", "l"]))
        if draw(st.integers(0, 3)) == 0:
            one["reconcile"] = {"tool": "lab_look", "args": {"text": name}}
        steps.append(one)
    if draw(st.booleans()):
        needs = [one["id"] for one in steps]
        steps.append(
            {"id": "p", "kind": "pivot", "tool": "lab_do", "args": {"text": "p"}, "needs": needs}
        )
        for number in range(draw(st.integers(0, 2))):
            one = {"id": f"r{number}", "kind": "retriable", "tool": "lab_do", "needs": ["p"]}
            if draw(st.booleans()):
                one["ordering_key"] = draw(st.sampled_from(["k", "l"]))
            steps.append({**one, "args": {"text": "r"}})
    return {"steps": steps}


@st.composite
def chains(draw: st.DrawFn, first: str, second: str) -> dict[str, Any]:
    """A step with one key, then one with another; perhaps past the pivot by then."""
    undo = {"compensate": {"tool": "lab_undo", "args": {"text": "x"}}}
    steps = [
        {"id": "a", "ordering_key": first, **undo},
        {"id": "p", "kind": "pivot"},
        {"id": "b", "ordering_key": second, "kind": "retriable"},
    ]
    if draw(st.booleans()):
        steps = [steps[0], {"id": "b", "ordering_key": second, **undo}]
    needs = [None, "a", "p"]
    return {
        "steps": [
            {"tool": "lab_do", "args": {"text": "x"}, **one, "needs": [n] if n else []}
            for one, n in zip(steps, needs, strict=False)
        ]
    }

"""Labels and a caller's reason, as texts of any kind come in."""

import pytest
from pydantic import TypeAdapter, ValidationError

from app.asserted import Labels, invocation_of, labels_of
from app.errors import BadRequestError

LABELS: TypeAdapter[list[str]] = TypeAdapter(Labels)


@pytest.mark.guarantee("labels:searched")
@pytest.mark.parametrize(
    "label",
    ["INC-17", "ticket: 4711", "変更", "👩‍🚀", "{{ x }}", "a,b", 'it\'s "q"', "\\", "%s", "é" * 64],
)
def test_a_label_is_any_short_text_that_one_can_see(label: str) -> None:
    assert LABELS.validate_python([label]) == [label]
    assert LABELS.validate_json(LABELS.dump_json([label])) == [label]


@pytest.mark.guarantee("labels:searched")
@pytest.mark.parametrize(
    "labels",
    [
        [""],
        [" x"],
        ["x\n"],
        ["x\ty"],
        ["nul\0"],
        ["\ud83d"],
        ["\u202egpj.exe"],
        ["two\u2028lines"],
        ["x" * 65],
        [7],
        [None],
        [["x"]],
        "x",
        {"x": "y"},
        [str(n) for n in range(11)],
    ],
)
def test_what_is_no_label_is_refused(labels: object) -> None:
    with pytest.raises(ValidationError):
        LABELS.validate_python(labels)


@pytest.mark.guarantee("labels:searched")
def test_the_headers_labels_come_behind_the_others_and_each_is_there_once() -> None:
    assert labels_of(["b", "a", "b"], " c , a,, c ") == ("b", "a", "c")
    assert labels_of(None, None) == ()
    for bad in ("\xe9", "x" * 65, "a\x07b", ",".join(map(str, range(11)))):
        with pytest.raises(BadRequestError, match="Nothing was started"):
            labels_of(None, bad)


@pytest.mark.guarantee("asserted:kept")
def test_of_what_a_client_says_of_its_model_known_texts_are_kept_and_cut() -> None:
    said = {
        "invocationReason": " The user\0 asked.\x1b[31m ",
        "userIntent": "i" * 5000,
        "model": "m-1",
        "turnId": 7,
        "sessionId": "\ud800",
        "other": {"deep": [1]},
        "": "x",
    }
    kept = invocation_of(said)
    assert kept is not None
    assert kept.pop("user_intent") == "i" * 1999 + "…"
    assert kept == {"invocation_reason": "The user asked.[31m", "model": "m-1"}


@pytest.mark.guarantee("asserted:kept")
@pytest.mark.parametrize("said", [None, "x", 7, [], [{"model": "m"}], {}, {"model": ""}, {1: "x"}])
def test_what_says_nothing_is_nothing(said: object) -> None:
    assert invocation_of(said) is None

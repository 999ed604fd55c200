"""What a call came to, in the results API's words."""

from dataclasses import replace
from typing import Any

import pytest

from adapters.claims import DRAINED, drained, spoken, without
from adapters.contract import CANCELLED, AdapterCall, Failure, Known, Outcome, Result
from adapters.targets import Target

UNKNOWN = Failure(
    code=CANCELLED,
    message="It ran.",
    outcome_unknown=True,
    known=Known.UNKNOWN,
    details={"body": "x"},
)
NOT_DONE = replace(UNKNOWN, outcome_unknown=False, known=Known.NOT_DONE)


def call_of(*, idempotent: bool = False, takes_key: bool = False) -> AdapterCall:
    return AdapterCall(
        command_id="c",
        tenant="demo",
        tool="t",
        method="m",
        args={},
        target=Target(name="n", kind="echo", takes_key=takes_key),
        mapping={},
        idempotency_key="k",
        idempotent=idempotent,
    )


@pytest.mark.guarantee("worker:drain")
@pytest.mark.parametrize(
    ("call", "outcome", "given_back"),
    [
        (call_of(), UNKNOWN, False),
        (call_of(idempotent=True), UNKNOWN, True),
        (call_of(takes_key=True), UNKNOWN, True),
        (call_of(), NOT_DONE, True),
    ],
)
def test_what_is_ended_is_given_back_only_where_that_does_no_harm(
    call: AdapterCall, outcome: Failure, *, given_back: bool
) -> None:
    found = drained(call, outcome)
    assert isinstance(found, Failure)
    assert found.code == DRAINED
    assert (found.retryable, found.outcome_unknown) == (given_back, not given_back)


@pytest.mark.guarantee("worker:drain")
@pytest.mark.parametrize("known", [Known.DONE, Known.REFUSED])
def test_what_is_done_or_refused_is_not_given_back(known: Known) -> None:
    found = drained(call_of(idempotent=True), replace(NOT_DONE, known=known))
    assert isinstance(found, Failure)
    assert (found.retryable, found.outcome_unknown) == (False, False)


@pytest.mark.parametrize("outcome", [Result(value=1), Failure(code="refused", message="No.")])
def test_what_ended_by_itself_meanwhile_is_told_as_it_is(outcome: Outcome) -> None:
    assert drained(call_of(), outcome) is outcome


def test_an_error_that_cannot_be_kept_is_told_without_what_the_target_sent() -> None:
    error: dict[str, Any] = without(UNKNOWN, "the broker answered 422")["error"]
    assert error == {
        "code": CANCELLED,
        "message": "It ran.",
        "retryable": False,
        "outcome_unknown": True,
    }
    lost = without(Result(value="x"), "it has 9 bytes")["error"]
    assert (lost["code"], lost["retryable"]) == ("result_not_kept", False)
    assert "9 bytes" in lost["message"]


def test_content_blocks_are_told_in_the_shape_that_mcps_clients_get() -> None:
    blocks = [{"type": "text", "text": "hi"}]
    assert spoken(Result(value={"a": 1}, content=blocks))["result"] == {
        "mcp": {"content": blocks, "structuredContent": {"a": 1}}
    }
    assert spoken(Result(content=blocks))["result"] == {"mcp": {"content": blocks}}
    assert spoken(Result(value=None)) == {"status": "ok", "result": None}

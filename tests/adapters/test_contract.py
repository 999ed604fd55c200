"""What every kind has from the registry: the retry rule, deadlines, cancel, masking, bounds."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from adapters.contract import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    RESULT_TOO_LARGE,
    CallFailedError,
    Failure,
    Known,
    Result,
    failure,
)
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters, check
from adapters.masking import MASKED, forms, mask
from adapters.targets import Limits, Target, TargetRefusedError
from tests.adapters.executor import Heard, call_of

ECHO = Target(name="mirror", kind="echo")


async def test_an_echo_answers_with_its_arguments_and_noop_with_nothing() -> None:
    adapters = Adapters()
    said = await adapters.run(call_of(ECHO, args={"a": [1, "ü"]}), Heard())
    silent = await adapters.run(call_of(Target(name="n", kind="noop"), args={"a": 1}), Heard())
    await adapters.close()
    assert (said, silent) == (Result(value={"a": [1, "ü"]}), Result(value=None))


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize(
    ("known", "idempotent", "takes_key", "retryable", "outcome_unknown"),
    [
        (Known.REFUSED, True, True, False, False),
        (Known.DONE, True, True, False, False),
        (Known.NOT_DONE, False, False, True, False),
        (Known.UNKNOWN, False, False, False, True),
        (Known.UNKNOWN, True, False, True, False),
        (Known.UNKNOWN, False, True, True, False),
    ],
)
async def test_one_rule_says_what_is_tried_again(
    *, known: Known, idempotent: bool, takes_key: bool, retryable: bool, outcome_unknown: bool
) -> None:
    target = Target(name="t", kind="echo", takes_key=takes_key)
    call = call_of(target, idempotent=idempotent)
    judged = failure(call, CallFailedError(known, "code", "words", retry_after_s=3))
    assert (judged.retryable, judged.outcome_unknown) == (retryable, outcome_unknown)
    assert judged.retry_after_s == (3 if retryable else None)


@pytest.mark.parametrize("code", [CANCELLED, DEADLINE_EXCEEDED])
async def test_what_was_stopped_is_not_tried_again(code: str) -> None:
    call = call_of(ECHO, idempotent=True)
    judged = failure(call, CallFailedError(Known.NOT_DONE, code, "words"))
    unknown = failure(call, CallFailedError(Known.UNKNOWN, code, "words"))
    assert not judged.retryable
    assert not judged.outcome_unknown
    assert unknown.outcome_unknown


async def test_a_cancel_ends_a_running_call() -> None:
    adapters, heard = Adapters(), Heard()
    running = asyncio.create_task(adapters.run(call_of(ECHO, mapping={"delay_s": 60}), heard))
    await heard.until_said()
    heard.cancel()
    outcome = await asyncio.wait_for(running, 5)
    await adapters.close()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.outcome_unknown) == (CANCELLED, True)


async def test_a_deadline_ends_a_running_call_and_refuses_one_that_is_late() -> None:
    adapters = Adapters()
    call = call_of(ECHO, mapping={"delay_s": 60}, deadline_s=0.05)
    outcome = await asyncio.wait_for(adapters.run(call, Heard()), 5)
    late = await adapters.run(call_of(ECHO, deadline_s=-1), Heard())
    await adapters.close()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.outcome_unknown) == (DEADLINE_EXCEEDED, True)
    assert isinstance(late, Failure)
    assert (late.code, late.outcome_unknown) == (DEADLINE_EXCEEDED, False)


async def test_the_end_of_the_executors_task_ends_the_work() -> None:
    adapters, heard = Adapters(), Heard()
    running = asyncio.create_task(adapters.run(call_of(ECHO, mapping={"delay_s": 60}), heard))
    await heard.until_said()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await adapters.close()


@pytest.mark.guarantee("adapters:bounded")
async def test_a_result_over_the_targets_limit_is_told_and_not_tried_again() -> None:
    adapters = Adapters()
    target = Target(name="t", kind="echo", limits=Limits(result_bytes_max=10))
    outcome = await adapters.run(call_of(target, args={"a": "x" * 10}, idempotent=True), Heard())
    await adapters.close()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.retryable) == (RESULT_TOO_LARGE, False)


async def test_an_adapters_mistake_fails_its_call_only() -> None:
    adapters = Adapters()
    broken = await adapters.run(call_of(ECHO, args=None), Heard())
    wrong = await adapters.run(call_of(ECHO, mapping={"delay_s": "soon"}), Heard())
    whole = await adapters.run(call_of(ECHO), Heard())
    unknown = await adapters.run(call_of(Target(name="t", kind="carrier-pigeon")), Heard())
    await adapters.close()
    assert isinstance(broken, Failure)
    assert (broken.code, broken.outcome_unknown) == ("adapter_failed", True)
    assert isinstance(whole, Result)
    assert isinstance(unknown, Failure)
    assert unknown.code == "misconfigured"
    assert isinstance(wrong, Failure)
    assert (wrong.code, wrong.outcome_unknown) == ("misconfigured", False)
    assert "delay_s" in wrong.message


async def test_adapters_are_kept_up_to_a_bound() -> None:
    adapters = Adapters(kept_max=2)
    for n in range(5):
        await adapters.run(call_of(Target(name=f"t{n}", kind="echo")), Heard())
    kept = adapters.kept
    await adapters.close()
    assert kept == 2


async def test_references_are_read_of_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("s3cret-of-demo\n")
    secrets = CredentialSources({"TOKEN": "s3cret"}).of("demo")
    read = [await secrets.value("env:TOKEN"), await secrets.value(f"file:{tmp_path}/{{tenant}}")]
    assert read == ["s3cret", "s3cret-of-demo"]
    assert mask("a s3cret-of-demo", secrets.hidden) == f"a {MASKED}"
    for missing in ("env:OTHER", f"file:{tmp_path}/other", "s3cret"):
        with pytest.raises(CallFailedError) as caught:
            await secrets.value(missing)
        assert caught.value.known is Known.NOT_DONE
        assert "s3cret" not in str(caught.value).replace("{tenant}", "")


@pytest.mark.guarantee("adapters:masked")
def test_a_secret_is_masked_in_each_way_of_quoting_it() -> None:
    secret = 'p"s\\ü/ n\n&1'
    shown: dict[str, Any] = {"plain": secret, "n": [1, True, None]}
    hidden = forms(secret)
    import json
    from urllib.parse import quote, quote_plus, urlencode

    quoted = [
        secret,
        json.dumps({"a": secret}),
        json.dumps(json.dumps({"a": secret})),
        json.dumps({"a": secret}, ensure_ascii=False),
        repr({"a": secret}),
        quote(secret),
        quote(secret, safe=""),
        quote(secret, safe="").lower(),
        quote_plus(secret),
        urlencode({"a": secret}),
    ]
    for text in quoted:
        masked = mask({text: [text]}, hidden)
        assert MASKED in next(iter(masked)), text
        assert all(one not in str(masked) for one in hidden), text
    assert mask(shown, hidden) == {"plain": MASKED, "n": [1, True, None]}
    assert mask({"a": 123456}, forms("123456")) == {"a": MASKED}


def test_a_target_comes_back_as_it_was_written_and_refuses_what_it_does_not_know() -> None:
    written = {
        "name": "billing",
        "kind": "http",
        "address": "https://billing.example/api",
        "tls": {"ca": "file:/ca.pem"},
        "credential": {"type": "bearer", "token": "vault:kv/billing#{tenant}"},
        "limits": {"calls_max": 2},
        "allowed_hosts": ["files.example"],
        "takes_key": True,
    }
    target = Target.read(written)
    assert Target.read(target.written()) == target
    assert (target.limits.calls_max, target.tls.ca) == (2, "file:/ca.pem")
    for wrong in (
        {"colour": "red"},
        {"limits": {"calls": 1}},
        {"limits": {"calls_max": 0}},
        {"limits": {"timeout_s": True}},
        {"tls": {"certificate": "file:/c.pem"}},
        {"tls": {"ca": 1}},
        {"allowed_hosts": "files.example"},
        {"allowed_hosts": [1]},
        {"name": ""},
        {"address": 1},
        {"takes_key": "yes"},
        {"options": []},
    ):
        with pytest.raises(TargetRefusedError):
            Target.read(written | wrong)


def test_a_mapping_is_checked_before_it_is_used() -> None:
    assert not check(ECHO, {"delay_s": 1})
    assert check(ECHO, {"delay_s": -1})
    assert check(ECHO, {"colour": "red"})
    assert check(Target(name="t", kind="carrier-pigeon"), {})

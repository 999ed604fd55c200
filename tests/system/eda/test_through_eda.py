"""Commands through Kafka, the real ansible-rulebook and the shipped adapters."""

from pathlib import Path
from typing import Any

import pytest

from devstack.demo import head_of
from devstack.eda import EmbeddedEda
from tests.support.stack import wait_for
from tests.system.eda.conftest import Send
from tests.system.eda.results_api import TOKEN, ResultsApi

pytestmark = [pytest.mark.eda, pytest.mark.usefixtures("eda"), pytest.mark.timeout(180)]

LAST_WORDS = {"result", "error", "reject"}
PLAY_S = 40


async def ended(api: ResultsApi, command: dict[str, Any]) -> list[str]:
    """The words about a command, once the last one is said."""

    async def done() -> bool:
        return bool(LAST_WORDS & set(api.words(command)))

    await wait_for(done, PLAY_S)
    return api.words(command)


async def settled(api: ResultsApi, send: Send) -> None:
    """Wait until a command that was sent after all others has been done."""
    last = api.command("probe", "echo", {"text": "last"})
    await send(last)
    await ended(api, last)


async def test_a_clone_is_claimed_then_told_of_then_reported(
    api: ResultsApi, send: Send, repo: Path, home: Path
) -> None:
    command = api.command("git", "clone", {"repo": str(repo), "dest": "one"})
    await send(command)
    assert await ended(api, command) == ["claim", *["progress"] * 3, "result"]
    claim, *progress, result = api.of(command)
    assert claim.body["attempt"] == 1
    percents = [said.body["percent"] for said in progress]
    assert percents == sorted(set(percents)), "progress rises"
    clone = home / "workspace" / "_clones" / "demo" / "one"
    assert result.body["result"]["path"] == str(clone)
    assert result.body["result"]["head"] == head_of(str(clone)) == head_of(str(repo))
    assert result.body["result"]["branch"] == "main"
    assert {said.token for said in api.of(command)} == {f"Bearer {TOKEN}"}
    assert {said.body["attempt"] for said in api.of(command)} == {1}


@pytest.mark.guarantee("adapter:redelivered")
async def test_a_redelivered_event_is_cloned_once_where_the_claim_says_no(
    api: ResultsApi, send: Send, repo: Path, home: Path
) -> None:
    command = api.command("git", "clone", {"repo": str(repo), "dest": "twice"})
    await send(command)
    await ended(api, command)
    clone = home / "workspace" / "_clones" / "demo" / "twice"
    (clone / "README").write_text("changed since\n")
    api.refused[command["correlation_id"]] = "ended_succeeded"
    await send(command)

    async def refused() -> bool:
        return api.words(command).count("claim") == 2

    await wait_for(refused, PLAY_S)
    await settled(api, send)
    first, second = [said.body for said in api.of(command) if said.word == "claim"]
    assert first["adapter"] != second["adapter"], "each run has its own name"
    assert api.words(command)[-1] == "claim", "and no word after it"
    assert (clone / "README").read_text() == "changed since\n"


async def test_a_delete_removes_a_clone_and_nothing_else(
    api: ResultsApi, send: Send, repo: Path, home: Path
) -> None:
    clones = home / "workspace" / "_clones"
    made = api.command("git", "clone", {"repo": str(repo), "dest": "gone"})
    await send(made)
    await ended(api, made)
    others = [clones / "demo" / "not-ours", clones / "other"]
    for folder in others:
        folder.mkdir(parents=True)
    names = ["gone", "not-ours", "../other", ".incoming"]
    clone, *refused = [api.command("git", "delete", {"dest": name}) for name in names]
    await send(clone, *refused)
    assert (await ended(api, clone))[-1] == "result"
    gone = clones / "demo" / "gone"
    assert api.of(clone)[-1].body["result"] == {"path": str(gone), "deleted": True}
    assert not gone.exists()
    for command in refused:
        assert (await ended(api, command))[-1] == "error"
    assert all(folder.exists() for folder in others)


@pytest.mark.guarantee("adapter:no-rule")
async def test_a_command_that_no_rule_takes_is_rejected_with_the_reason(
    api: ResultsApi, send: Send
) -> None:
    command = api.command("nobody", "home", {})
    await send(command)
    assert await ended(api, command) == ["reject"]
    assert api.of(command)[0].body == {"reason": "no rule takes nobody.home", "attempt": 1}


async def test_a_record_that_is_no_command_is_shown_and_stops_nothing(
    api: ResultsApi, send: Send, eda: EmbeddedEda
) -> None:
    shown = eda.process.log.read_text().count("rejected.record")
    before = len(api.said)
    await send(b"not json", None, b'{"tool": "git"}', b'{"tool": 5, "correlation_id": "../.."}')

    async def all_shown() -> bool:
        return eda.process.log.read_text().count("rejected.record") == shown + 4

    await wait_for(all_shown, PLAY_S)
    assert len(api.said) == before, "there is nobody to answer to"
    await settled(api, send)


@pytest.mark.guarantee("adapter:no-templates")
async def test_a_template_in_a_callers_words_is_never_run(
    api: ResultsApi, send: Send, home: Path
) -> None:
    mark = home / "was-run"
    lookup = f"lookup('pipe', 'touch {mark}')"
    plain = f"{{{{ {lookup} }}}}"
    header = f"#jinja2: variable_start_string:'[%', variable_end_string:'%]'\n[% {lookup} %]"
    texts = [plain, header]
    everywhere = {"idempotency_key": plain, "ordering_key": plain, "user_id": header}
    commands = [api.command("probe", "echo", {"text": text}, **everywhere) for text in texts]
    clone = api.command("git", "clone", {"repo": plain, "dest": "x"}, compensation={"args": plain})
    nowhere = api.command("nobody", plain, {})
    await send(*commands, clone, nowhere, {"tool": plain, "method": header})
    for command, text in zip(commands, texts, strict=True):
        assert (await ended(api, command))[-1] == "result"
        assert api.of(command)[-1].body["result"] == {"text": text}, "and it arrives as it was"
    assert (await ended(api, clone))[-1] == "error"
    assert await ended(api, nowhere) == ["reject"]
    await settled(api, send)
    assert not mark.exists()


async def test_no_log_has_the_token_or_the_arguments(
    api: ResultsApi, send: Send, eda: EmbeddedEda
) -> None:
    command = api.command("probe", "echo", {"text": "s3cret-argument"})
    await send(command)
    await ended(api, command)
    await settled(api, send)
    log = eda.process.log.read_text()
    assert "TASK [Report the result]" in log
    assert TOKEN not in log
    assert "s3cret-argument" not in log

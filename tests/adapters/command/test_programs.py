"""Kind `command`, with real programs: what they are given, what they say, and how they end."""

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from adapters.contract import Outcome
from adapters.kinds import Adapters, check
from adapters.targets import Limits, Target
from tests.adapters.command.programs import done, failed, python, script
from tests.adapters.executor import Heard, call_of
from tests.support.stack import wait_for

SHOW = "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'stdin': sys.stdin.read()}))"


@pytest.mark.guarantee("adapters:no-way-out")
async def test_arguments_become_argv_and_no_shell_reads_them(
    adapters: Adapters, workspace: Path
) -> None:
    mapping = script(
        SHOW,
        "--",
        "{text}",
        "x={n},{flag}",
        ["--depth", "{depth}"],
        ["--gone", "{absent}"],
        {"each": "paths", "args": ["-f", "{item}"]},
        "{{literal}}",
        "{inner.name}",
    )
    args: dict[str, Any] = {
        "text": "$(id); `id` | cat > /tmp/x\n'\" *",
        "n": 1.5,
        "flag": True,
        "depth": 3,
        "absent": None,
        "paths": ["a", "-b"],
        "inner": {"name": "ünïcödé 🦜"},
    }
    target = python(workspace)
    assert not check(target, mapping)
    value = done(await adapters.run(call_of(target, args=args, mapping=mapping), Heard()))
    assert value["argv"] == [
        "--",
        args["text"],
        "x=1.5,true",
        "--depth",
        "3",
        "-f",
        "a",
        "-f",
        "-b",
        "{literal}",
        "ünïcödé 🦜",
    ]
    assert json.loads(value["stdin"]) == args


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"a": "nul\0"}, "NUL"),
        ({"a": "--upload-pack=evil"}, "dash"),
        ({"a": "x" * 200_000}, "too long"),
        ({}, "needs the argument a"),
        ({"a": "\ud800"}, "surrogate"),
    ],
)
async def test_what_no_command_line_carries_is_refused_before_anything_runs(
    adapters: Adapters, workspace: Path, args: dict[str, Any], words: str
) -> None:
    mapping = script("open('ran', 'w')", "{a}", stdin="none")
    target = python(workspace, options={"folder": str(workspace)})
    outcome = failed(await adapters.run(call_of(target, args=args, mapping=mapping), Heard()))
    assert (outcome.code, outcome.retryable) == ("invalid_arguments", False)
    assert words in outcome.message
    assert not (workspace / "ran").exists()


async def test_environment_is_what_the_target_lists_and_secrets_are_masked(
    adapters: Adapters, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_TOKEN", "not for programs")
    monkeypatch.setenv("PROXY", "proxy.example")
    target = python(
        workspace,
        options={"env": {"MODE": "of {tenant}"}, "inherit": ["PROXY", "UNSET"]},
        credential={"type": "env", "values": {"API_KEY": "env:KEY"}},
    )
    code = "import json, os, sys; print(json.dumps([dict(os.environ), os.getcwd()]))"
    call = call_of(target, mapping=script(code), traceparent="00-a-b-01", attempt=2)
    env, folder = done(await adapters.run(call, Heard()))
    assert set(env) - {"LC_CTYPE"} == {
        *("API_KEY", "HOME", "LANG", "MODE", "PATH", "PROXY", "TMPDIR", "TRACEPARENT"),
        *("MCP_ATTEMPT", "MCP_COMMAND_ID", "MCP_IDEMPOTENCY_KEY", "MCP_METHOD"),
        *("MCP_PROGRESS_FD", "MCP_TENANT", "MCP_TOOL"),
    }
    assert (env["MODE"], env["API_KEY"]) == ("of demo", "[redacted]")
    assert (env["MCP_IDEMPOTENCY_KEY"], env["MCP_ATTEMPT"]) == ("key-1", "2")
    assert env["HOME"] == folder


@pytest.mark.guarantee("adapters:masked")
async def test_a_failed_program_is_masked_too(adapters: Adapters, workspace: Path) -> None:
    target = python(workspace, credential={"type": "env", "values": {"API_KEY": "env:KEY"}})
    code = (
        "import os, sys; os.write(3, b'{\"message\": \"key %s\"}\\n' % os.environb[b'API_KEY']);"
        "sys.exit('no such key: ' + os.environ['API_KEY'])"
    )
    heard = Heard()
    outcome = failed(await adapters.run(call_of(target, mapping=script(code)), heard))
    assert outcome.message == "The program ended with exit code 1: no such key: [redacted]"
    assert "s3cret" not in str([outcome, heard.said])
    assert heard.said == [(None, None, "key [redacted]")]


async def test_each_call_has_a_folder_of_its_own_that_is_removed(
    adapters: Adapters, workspace: Path
) -> None:
    code = (
        "import os; print('\"' + os.getcwd() + '\"'); os.makedirs('a/b'); open('a/b/c', 'w');"
        "os.symlink('/etc', 'link'); os.chmod('a/b', 0); os.chmod('a', 0)"
    )
    first, second = await asyncio.gather(
        *[adapters.run(call_of(python(workspace), mapping=script(code)), Heard()) for _ in "ab"]
    )
    assert len({done(first), done(second)}) == 2
    assert Path(done(first)).parent == workspace

    async def removed() -> bool:
        return not list(workspace.iterdir())

    assert await wait_for(removed, 5)


async def test_a_folder_that_the_target_names_is_each_tenants_own_and_stays(
    adapters: Adapters, workspace: Path
) -> None:
    target = python(workspace, options={"folder": f"{workspace}/kept/{{tenant}}"})
    for tenant in ("demo", "other"):
        call = call_of(target, tenant=tenant, mapping=script("open('made', 'w')"))
        assert done(await adapters.run(call, Heard())) is None
    made = sorted(workspace.glob("kept/*"))
    assert [one.name for one in made] == ["demo", "other"]
    assert all((one / "made").exists() for one in made)
    assert stat.S_IMODE(made[0].stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("code", "codes", "retryable", "unknown"),
    [
        ("sys.exit(3)", {}, False, False),
        ("sys.exit(75)", {}, True, False),
        ("sys.exit(3)", {"3": "not_done"}, True, False),
        ("sys.exit(3)", {"3": "unknown"}, False, True),
        ("os.kill(os.getpid(), 9)", {}, False, True),
    ],
)
async def test_exit_codes_become_errors(
    *, adapters: Adapters, workspace: Path, code: str, codes: dict[str, str],
    retryable: bool, unknown: bool,
) -> None:  # fmt: skip
    mapping = script(f"import os, sys; {code}", exit_codes=codes)
    assert not check(python(workspace), mapping)
    outcome = failed(await adapters.run(call_of(python(workspace), mapping=mapping), Heard()))
    assert outcome.code == "target_failed"
    assert (outcome.retryable, outcome.outcome_unknown) == (retryable, unknown)


async def test_an_exit_code_can_mean_that_it_is_done(adapters: Adapters, workspace: Path) -> None:
    mapping = script("import sys; print('[1]'); sys.exit(4)", exit_codes={"4": "done"})
    assert done(await adapters.run(call_of(python(workspace), mapping=mapping), Heard())) == [1]


async def test_a_program_that_is_not_there_was_not_run(adapters: Adapters, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for address in ("/nowhere/program", str(tmp_path / "plain"), str(tmp_path)):
        target = Target(name="t", kind="command", address=address)
        outcome = failed(await adapters.run(call_of(target), Heard()))
        assert (outcome.code, outcome.retryable) == ("target_unavailable", True), address


@pytest.mark.guarantee("adapters:bounded")
async def test_output_is_json_or_text_within_the_bound(adapters: Adapters, workspace: Path) -> None:
    async def said(code: str, **mapping: Any) -> Outcome:
        target = python(workspace, limits=Limits(result_bytes_max=100_000))
        return await adapters.run(call_of(target, mapping=script(code, **mapping)), Heard())

    assert done(await said("print('{\"a\": 1}')")) == {"a": 1}
    assert done(await said("print('')")) is None
    assert failed(await said("print('not json')")).code == "result_unreadable"
    assert failed(await said("print('NaN')")).code == "result_unreadable"
    huge = "import sys; sys.stdout.write('x' * 5_000_000)"
    assert failed(await said(huge)).code == "result_too_large"
    odd = "import os; os.write(1, b'a\\0\\xffz')"
    assert done(await said(odd, stdout="text")) == {"text": "a\ufffd\ufffdz", "truncated": False}
    text = done(await said("import sys; sys.stdout.write('x' * 90_000)", stdout="text"))
    assert (len(text["text"]), text["truncated"]) == (90_000, False)


async def test_text_over_the_bound_is_cut_and_says_so(adapters: Adapters, workspace: Path) -> None:
    target = python(workspace, limits=Limits(result_bytes_max=1000))
    mapping = script("print('x' * 5_000_000)", stdout="text")
    value = done(await adapters.run(call_of(target, mapping=mapping), Heard()))
    assert value["truncated"]
    assert 500 < len(value["text"]) <= 1000


async def test_progress_comes_as_lines_of_json_and_no_flood_holds_anybody_up(
    adapters: Adapters, workspace: Path
) -> None:
    code = """
import os
def say(line): os.write(3, line + b"\\n")
say(b'{"done": 1, "total": 4, "message": "begun"}')
input()
say(b"no json"); say(b"[1]"); say(b"x" * 100_000)
for n in range(20_000): say(b'{"done": %d, "total": 20000}' % n)
say(b'{"done": 20000, "total": "all", "message": 7}')
"""
    heard = Heard()
    call = call_of(python(workspace), args={"a": 1}, mapping=script(code))
    assert done(await asyncio.wait_for(adapters.run(call, heard), 30)) is None
    assert heard.said[0][1] in (4, 20000)
    assert heard.said[-1] == (20000, None, None)


async def test_a_flood_of_errors_is_read_and_its_end_kept(
    adapters: Adapters, workspace: Path
) -> None:
    code = "import sys; sys.stderr.write('x' * 3_000_000); sys.exit('at the end')"
    outcome = failed(await adapters.run(call_of(python(workspace), mapping=script(code)), Heard()))
    assert outcome.message.endswith("at the end")
    assert len(outcome.details["stderr"]) <= 4096


async def test_stdin_that_nobody_reads_holds_nobody_up(adapters: Adapters, workspace: Path) -> None:
    call = call_of(python(workspace), args={"a": "x" * 3_000_000}, mapping=script("print(1)"))
    assert done(await asyncio.wait_for(adapters.run(call, Heard()), 20)) == 1


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"cpu_s": 1}, "while True: pass"),
        ({"memory_bytes": 200_000_000}, "x = bytearray(500_000_000)"),
        ({"file_bytes": 10_000}, "open('f', 'wb').write(bytes(1_000_000))"),
        ({"open_files": 20}, "fs = [open('/dev/null') for _ in range(50)]"),
    ],
)
async def test_limits_end_what_goes_beyond_them(
    adapters: Adapters, workspace: Path, limits: dict[str, int], code: str
) -> None:
    target = python(workspace, options={"limits": limits})
    outcome = failed(await adapters.run(call_of(target, mapping=script(code)), Heard()))
    assert outcome.code == "target_failed"


def test_what_a_mapping_and_a_target_may_not_say_is_told() -> None:
    target = Target(name="t", kind="command", address="/bin/true")
    for mapping in (
        {"args": "ls"},
        {"args": ["{"]},
        {"args": [1]},
        {"args": [{"each": "a"}]},
        {"shell": True},
        {"stdin": "all"},
        {"stdout": "xml"},
        {"exit_codes": {"x": "done"}},
        {"exit_codes": {"1": "odd"}},
    ):
        assert len(check(target, mapping)) == 1, mapping
    for field in (
        {"address": "ls"},
        {"options": {"colour": 1}},
        {"options": {"env": {"A": 1}}},
        {"options": {"inherit": "PATH"}},
        {"options": {"folder": "here"}},
        {"options": {"limits": {"cpu_s": "1"}}},
        {"options": {"grace_s": 60}},
        {"credential": {"type": "bearer", "token": "env:A"}},
    ):
        wrong = Target.read({"name": "t", "kind": "command", "address": "/bin/true"} | field)
        assert len(check(wrong, {})) == 1, field

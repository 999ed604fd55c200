"""Which spans are told apart, and what each may say: of changes by hand that no other test saw."""

from itertools import combinations
from uuid import uuid4

import pytest

from app.traces import names
from app.traces.context import Context
from app.traces.life import spans_of
from tests.support.traced import Opened
from tests.traces.test_life import FRONT, life


def test_no_two_things_are_one_span() -> None:
    one, other = uuid4(), uuid4()
    elsewhere = Context(b"u" * 16, FRONT.span_id)
    spans = [
        FRONT.command(one),
        FRONT.command(other),
        elsewhere.command(one),
        FRONT.sent(one, 1, 0),
        FRONT.sent(one, 1, 1),
        FRONT.sent(one, 2, 0),
        FRONT.attempt(one, 1),
        FRONT.attempt(one, 2),
        FRONT.attempt(other, 1),
    ]
    assert not [pair for pair in combinations(spans, 2) if pair[0].span_id == pair[1].span_id]
    assert FRONT.command(one) == FRONT.command(str(one)), "whoever names it names the same"


@pytest.mark.parametrize(
    ("end", "failed"),
    [("succeeded", False), ("failed", True), ("cancelled", True), ("timed_out", True)],
)
def test_a_command_that_has_not_succeeded_has_failed(end: str, failed: bool) -> None:
    whole, *_, work = spans_of(life(("accepted", 1), ("dispatched", 1), ("claimed", 1), (end, 1)))
    assert (whole.failed, work.failed) == (failed, failed)
    assert ("error.type" in dict(whole.attributes)) is failed


def test_a_step_is_below_its_saga_and_an_undo_names_what_it_undoes() -> None:
    saga, undone = uuid4(), uuid4()
    done = [("accepted", 1), ("dispatched", 1), ("claimed", 1), ("succeeded", 1)]
    step = spans_of(life(*done, saga_id=saga, step="one", role="undo", undoes_id=undone))[0]
    assert step.parent == FRONT.command(saga).span_id
    assert [*step.links] == [FRONT.command(undone)]
    alone = spans_of(life(*done))[0]
    assert (alone.parent, [*alone.links]) == (FRONT.span_id, [])


def test_each_redrive_is_a_span_of_its_own() -> None:
    first = [("accepted", 1), ("dead_lettered", 1)]
    again = [("redrive", 2), ("dead_lettered", 2)]
    more = [("redrive", 3), ("dead_lettered", 3)]
    one, two = (spans_of(life(*part))[0] for part in (first + again, first + again + more))
    assert one.name == two.name == "redrive kind.echo"
    assert one.at.span_id != two.at.span_id
    assert one.parent == two.parent


@pytest.mark.guarantee("traces:discreet")
@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([], []),
        (["correlation_id"], ["mcp_broker.correlation_id"]),
        (["tenant_id"], ["mcp_broker.tenant_id"]),
    ],
)
def test_of_whom_a_span_is_stands_there_by_the_setting_only(
    opened: Opened, shown: list[str], said: list[str]
) -> None:
    tracing = opened(shown=shown).tracing
    assert tracing is not None
    assert [name for name, _ in tracing.who(correlation_id=uuid4(), tenant_id="demo")] == said


@pytest.mark.guarantee("traces:discreet")
def test_no_method_of_a_strangers_is_told() -> None:
    name, said = names.http_server("SECRET", "/x", "http", 404, "1.1")
    assert "SECRET" not in name + str(said)
    assert dict(said)["http.request.method"] == "_OTHER"
    assert names.http_server("GET", "/x", "http", 200, "1.1")[0] == "GET /x"


@pytest.mark.guarantee("traces:discreet")
@pytest.mark.parametrize("address", ["stdio:/srv/secret/tool", "/srv/secret/tool", "http://[bad"])
def test_no_path_of_a_programs_is_told(address: str) -> None:
    told = dict(names.adapter("mcp", address, {"tool": "x"})[1])
    assert "server.address" not in told
    assert dict(names.adapter("mcp", "https://a.test/mcp", {"tool": "x"})[1])["server.port"] == 443

"""What a tool's policy may say of approvals: checked in the catalog, and short where it can be."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from app.catalog import file as catalog_file
from app.catalog.approval import NOBODY, Approval
from app.catalog.policy import ToolPolicy
from app.errors import BadRequestError

TOOL: dict[str, Any] = {
    "tool": "grave",
    "method": "ship",
    "description": "d",
    "input_schema": {"type": "object", "properties": {"amount": {"type": "integer"}}},
}


def parsed(home: Path, approval: Any) -> Approval:
    path = home / "catalog.yml"
    path.write_text(yaml.safe_dump({"tools": [TOOL | {"policy": {"approval": approval}}]}))
    return catalog_file.parse(path).tools[0].policy.approval


@pytest.mark.guarantee("approval:checked")
@pytest.mark.parametrize(
    ("approval", "said"),
    [
        ("somebody", "approval.by: Input should be 'none', 'ask' or 'operator'"),
        ({"by": "none", "quorum": 2}, "by: none asks nobody"),
        ({"quorum": 0}, "greater than or equal to 1"),
        ({"quorum": 21}, "less than or equal to 20"),
        ({"quorum": 2**70}, "less than or equal to 20|64"),
        ({"expires_s": 0}, "greater than 0"),
        ({"expires_s": float("nan")}, "NaN and infinity"),
        ({"expires_s": float("inf")}, "NaN and infinity"),
        ({"expires_s": 1e12}, "policy.approval.expires_s is over 315360000, ten years"),
        ({"escalate_s": 5}, "escalate_s and escalate_to go together"),
        ({"escalate_to": "boss"}, "escalate_s and escalate_to go together"),
        ({"escalate_s": 60, "escalate_to": "boss", "expires_s": 60}, "less than expires_s"),
        ({"approvers": ["a", "a"]}, "a group stands there twice"),
        ({"approvers": [""]}, "at least 1 "),
        ({"approvers": ["x" * 256]}, "at most 255"),
        ({"approvers": ["a\0b"]}, "NUL"),
        ({"approvers": [f"g{n}" for n in range(11)]}, "at most 10"),
        ({"approvers": "a", "escalate_s": 1, "escalate_to": "a"}, "from the start"),
        ({"when": "args.amount >"}, "approval.when: at 1:14: Syntax error"),
        ({"when": "args.amuont > 1"}, "approval.when: args.amuont is no argument"),
        ({"when": "args.amount"}, None),
        ({"when": "'text'"}, "of type STRING"),
        ({"when": ""}, "at least 1 character"),
        ({"whom": "finance"}, "approval.whom: Extra inputs"),
        (["finance"], "dictionary or instance"),
    ],
)
def test_a_slip_is_told_with_its_place(home: Path, approval: Any, said: str | None) -> None:
    if said is None:
        assert parsed(home, approval).when == approval["when"]
        return
    with pytest.raises(BadRequestError, match=said):
        parsed(home, approval)


@pytest.mark.guarantee("approval:checked")
def test_a_word_stays_a_word_so_that_the_release_before_reads_it(home: Path) -> None:
    """And a tool's digest stays what it was."""
    for word in ("none", "ask", "operator"):
        made = parsed(home, word)
        assert made == Approval(by=word) == parsed(home, {"by": word})
        assert orjson.loads(ToolPolicy(approval=made).model_dump_json())["approval"] == word
    assert parsed(home, {"approvers": "finance"}).by == "operator"
    assert ToolPolicy().approval == NOBODY


@pytest.mark.guarantee("approval:checked")
def test_what_is_in_force_is_read_as_it_was_written(home: Path) -> None:
    made = parsed(
        home,
        {
            "by": "ask",
            "approvers": ["finance", "Ölbüro 😀"],
            "not_own": True,
            "quorum": 3,
            "expires_s": 600,
            "escalate_s": 60,
            "escalate_to": "managers",
            "when": "args.amount > 1000 && !('trusted' in claims.groups)",
        },
    )
    policy = ToolPolicy(approval=made)
    assert ToolPolicy.model_validate_json(policy.model_dump_json()) == policy

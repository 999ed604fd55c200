"""Rulebooks of the catalog: a rule for each tool that EDA has, and one that takes all the rest.

What is the same for every catalog (sources, watchdog) stands in the shipped rulebooks, above MARK.
"""

from collections.abc import Sequence
from typing import Final, Literal

import yaml

from app import assets
from app.catalog.adapter import PLAYBOOK, ControllerLaunch, ToolAdapter
from app.catalog.policy import Tool

Book = Literal["local", "aap"]

FILES: Final = {"local": "rulebook_mcp.yml", "aap": "rulebook_mcp_aap.yml"}
MARK: Final = "    # A rule for each tool of the catalog: `broker catalog rulebook` writes them.\n"
EVERY_KIND: Final = "mcp_adapter"
"""The playbook that runs any kind of adapter for EDA."""
REST: Final = "mcp_deadletter_adapter"
TRACE: Final = "event.meta.headers.traceparent | default('')"
"""Of the record's header: a job goes on with the trace of its command's publication."""


def shipped(book: Book) -> str:
    """The shipped rulebook."""
    return (assets.root() / "rulebooks" / FILES[book]).read_text(encoding="utf-8")


def render(tools: Sequence[Tool], book: Book) -> str:
    """The whole rulebook for these tools: of each exactly one rule, and none for the worker's."""
    head, mark, _ = shipped(book).partition(MARK)
    assert mark, "the shipped rulebook has the mark"
    ours = [tool for tool in tools if tool.topic is None]
    rules = [_rule(one, book) for one in ours]
    return head + mark + "".join([*rules, _rest(ours, book)])


def playbook(tool: Tool) -> str:
    """The playbook, and the job template, of a tool that EDA has."""
    match tool.adapter:
        case None:
            return f"mcp_{tool.tool}_{tool.method}_adapter"
        case ToolAdapter(kind="playbook") as adapter:
            return str(adapter.mapping[PLAYBOOK])
        case _:
            return EVERY_KIND


def _takes(tool: Tool) -> str:
    return f'event.body.tool == "{tool.tool}" and event.body.method == "{tool.method}"'


def _leaves(tool: Tool) -> str:
    return f'event.body.tool != "{tool.tool}" or event.body.method != "{tool.method}"'


def _rule(tool: Tool, book: Book) -> str:
    launch = None if tool.adapter is None else tool.adapter.launch
    action = _action(playbook(tool), book, launch or ControllerLaunch())
    return f"    - name: {tool.tool}_{tool.method}\n      condition: {_takes(tool)}\n{action}"


def _rest(taken: Sequence[Tool], book: Book) -> str:
    """What no other rule takes; also a record that has no tool or method, or is no command.

    Without `not (…)`: some of ansible-rulebook's releases do not read it with a newer pyparsing.
    """
    lines = [
        "    - name: default_deadletter",
        "      condition: >-",
        "        event.body is defined",
    ]
    if taken:
        lines.append(
            "        and (event.body.tool is not defined or event.body.method is not defined"
        )
        lines += [
            f"        {'or (' if n == 0 else 'and '}({_leaves(one)})"
            f"{'))' if n == len(taken) - 1 else ''}"
            for n, one in enumerate(taken)
        ]
    return "\n".join(lines) + "\n" + _action(REST, book, ControllerLaunch())


def _action(playbook: str, book: Book, launch: ControllerLaunch) -> str:
    if book == "local":
        return (
            "      action:\n"
            "        run_playbook:\n"
            f'          name: "{{{{ playbooks }}}}/{playbook}.yml"\n'
        )
    flow = launch.workflow_template
    lines = [
        "      action:",
        f"        run_{'workflow' if flow else 'job'}_template:",
        f"          name: {_plain(flow or launch.job_template or playbook)}",
        f"          organization: {_plain(launch.organization)}",
    ]
    if launch.labels:
        lines.append("          labels:")
        lines += [f"            - {_plain(label)}" for label in launch.labels]
        lines.append('            - "{{ event.body.correlation_id }}"')
    lines.append("          job_args:")
    # Without it ansible-rulebook sends the ruleset's hosts, `all`, which leaves a playbook of
    # localhost without a host where the inventory does not name it; so does `localhost`.
    lines.append(f"            limit: {_plain(launch.limit or '')}")
    asked: dict[str, object] = {
        "inventory": launch.inventory,
        "job_tags": None if launch.job_tags is None else _plain(launch.job_tags),
        "execution_environment": launch.execution_environment,
        "instance_groups": list(launch.instance_groups) or None,
        "verbosity": launch.verbosity,
    }
    lines += [f"            {name}: {said}" for name, said in asked.items() if said is not None]
    lines += [
        "            extra_vars:",
        '              mcp_command: "{{ event.body }}"',
        f'              TRACEPARENT: "{{{{ {TRACE} }}}}"',
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """As YAML: in quotes where it is no plain name."""
    plain = text.isidentifier() and yaml.safe_load(text) == text
    return text if plain else f'"{text}"'

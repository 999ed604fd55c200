"""What a target and a mapping of kind `aap` may say."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from adapters import authorization
from adapters.http.checks import address
from adapters.targets import Target

MAPPING: Final = {"template", "workflow", "prompts", "labels", "stored", "digest"}
PROMPTS: Final = (
    "limit",
    "inventory",
    "job_tags",
    "skip_tags",
    "job_type",
    "verbosity",
    "diff_mode",
    "scm_branch",
    "forks",
    "job_slice_count",
    "timeout",
    "execution_environment",
)
"""Fields of a launch that a caller may give, where the template asks for them."""


def check(target: Target, mapping: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with them."""
    yield from address(target)
    yield from authorization.problems(target.credential)
    if target.options:
        yield "a target of kind aap has no options"
    if unknown := sorted(set(mapping) - MAPPING):
        yield f"adapter has no {', '.join(unknown)}; it has {', '.join(sorted(MAPPING))}"
    template = mapping.get("template")
    if type(template) is not int or template < 1:
        yield "adapter.template is the template's id at the controller"
    if type(mapping.get("workflow", False)) is not bool:
        yield "adapter.workflow is true or false"
    for field in ("labels", "stored"):
        names = mapping.get(field, [])
        if not isinstance(names, list) or not all(isinstance(one, str) and one for one in names):
            yield f"adapter.{field} is a list of names"
    prompts = mapping.get("prompts", {})
    if not isinstance(prompts, Mapping) or not all(isinstance(n, str) for n in prompts.values()):
        yield "adapter.prompts gives fields of the launch the names of arguments"
    elif unknown := sorted(set(prompts) - set(PROMPTS)):
        yield f"adapter.prompts has no {', '.join(unknown)}; it has {', '.join(PROMPTS)}"

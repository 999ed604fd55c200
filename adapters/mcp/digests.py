"""What was reviewed of a server's tool, as one value: a tool that changes under its name is seen.

The description counts: it is what a model reads and acts on.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

REVIEWED: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
PREFIX: Final = "sha256:"


def digest(tool: Mapping[str, Any]) -> str:
    """Of a tool as `tools/list` has it; members that are null or absent are alike."""
    told = {name: tool[name] for name in REVIEWED if tool.get(name) is not None}
    written = orjson.dumps(_without_null(told), option=orjson.OPT_SORT_KEYS)
    return PREFIX + hashlib.sha256(written).hexdigest()


def _without_null(told: Mapping[str, Any]) -> dict[str, Any]:
    annotations = told.get("annotations")
    if isinstance(annotations, Mapping):
        kept = {name: one for name, one in annotations.items() if one is not None}
        return {**told, "annotations": kept}
    return dict(told)

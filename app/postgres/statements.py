"""Statements that are too long for a string: each a `.sql` file beside the module that runs it."""

from pathlib import Path


def beside(module: str, name: str) -> str:
    """The statement in `name`, beside the module with this `__file__`. Read once, at import."""
    return Path(module).with_name(name).read_text(encoding="utf-8")

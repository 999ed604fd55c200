"""Where the files lie that are no Python: migrations, rulebooks, playbooks."""

from pathlib import Path


def root() -> Path:
    """The wheel's own copy of them, or the checkout's root."""
    app = Path(__file__).resolve().parent
    packed = app / "_assets"
    return packed if packed.is_dir() else app.parent

"""Which release this is, and where its files lie that are no Python: migrations, rulebooks, …"""

from importlib import metadata
from pathlib import Path


def version() -> str:
    """This release, as the package is called by it."""
    return metadata.version("mcp-broker")


def root() -> Path:
    """The wheel's own copy of them, or the checkout's root."""
    app = Path(__file__).resolve().parent
    packed = app / "_assets"
    return packed if packed.is_dir() else app.parent

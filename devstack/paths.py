"""Where the embedded stack keeps things: a cache folder, and temporary ones."""

import os
import tempfile
from pathlib import Path


def cache() -> Path:
    """Downloads that outlive a run: `$MCP_BROKER_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("MCP_BROKER_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(chosen) if chosen else Path(base) / "mcp-broker"
    path.mkdir(parents=True, exist_ok=True)
    return path


def scratch(name: str) -> Path:
    """A new folder for a server's data; on a plain disk, reachable by every user."""
    path = Path(tempfile.mkdtemp(prefix=f"mcp-broker-{name}-"))
    path.chmod(0o711)
    return path

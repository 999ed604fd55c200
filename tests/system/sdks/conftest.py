"""A broker, and an adapter that serves the interop tests' tools, for each test by itself."""

from tests.edges.mcp.conftest import front, standing
from tests.system.agents.conftest import jobs

__all__ = ["front", "jobs", "standing"]

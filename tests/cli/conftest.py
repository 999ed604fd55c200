"""The command line is tried on the logs that the audit tests make."""

from tests.audit.conftest import log

__all__ = ["log"]

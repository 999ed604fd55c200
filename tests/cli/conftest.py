"""The command line is tried on what the tests of audit and sagas make."""

from tests.audit.conftest import log
from tests.sagas.conftest import lab

__all__ = ["lab", "log"]

"""Kind `http`: one request of a template, or of one operation of an OpenAPI document."""

from typing import Final

from adapters.contract import Kind
from adapters.http.checks import check
from adapters.http.client import HttpTarget

KIND: Final = Kind(open=HttpTarget, check=check)

"""How a setting is described, so that `broker config` reads like a reference."""

from typing import Annotated, Any, Final

from pydantic import Field
from pydantic.fields import FieldInfo

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]

REQUIRED: Final = ...


def setting(
    default: Any, what: str, *, unit: str | None = None, change: str = "", **limits: Any
) -> Any:
    """A setting: what it is, in which unit, and when to change it."""
    extra: dict[str, Any] = {"unit": unit, "change": change}
    return Field(default=default, description=what, json_schema_extra=extra, **limits)


def unit_of(field: FieldInfo) -> str | None:
    """The unit of a setting's value; None where it has none."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict), "made by `setting`"
    unit = extra["unit"]
    return None if unit is None else str(unit)


def change_of(field: FieldInfo) -> str:
    """When to change a setting."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict), "made by `setting`"
    return str(extra["change"])

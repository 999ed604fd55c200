"""What the tables share: metadata, types, defaults."""

from typing import Final

from sqlalchemy import (
    MetaData,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import UserDefinedType

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

INSTANT: Final = TIMESTAMP(timezone=True)
NOW: Final = text("now()")
FALSE: Final = text("false")
EMPTY: Final = text("'{}'::jsonb")
SALT: Final = text("uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())")


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id, which never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"

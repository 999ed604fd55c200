"""A part of a tenant's log, checked or written down as a bundle; by any role that may read it."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg

from app.audit import bundle
from app.audit.bundle import BundleError, EndLine, HeaderLine, KeyLine, MemberLine
from app.audit.proof import Check, Fault, Report, SignedSeal
from app.audit.store import export

LINES_AT_ONCE = 200
"""After so many a check lets others go on."""


async def check(conn: asyncpg.Connection, tenant: str, *, first: int, last: int) -> Report:
    """Check the seals of a range of numbers, with the keys that the log has itself.

    A range that does not begin with the first seal begins behind the seal before it, whose
    signature stands for what is before.
    """
    checking = Check(tenant, keys=await export.keys(conn), pinned=False)
    granted = await export.retirement(conn, tenant)
    if isinstance(granted, SignedSeal):
        checking.grant(granted)
    base = await export.seal(conn, tenant, first - 1)
    if isinstance(base, SignedSeal):
        checking.start_at(base)
    for fault in (granted, base):
        if isinstance(fault, Fault):
            checking.add(fault)
    number = 0
    async for line in export.log(conn, tenant, first=first, last=last):
        checking.add(line)
        number += 1
        if number % LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return checking.report()


async def lines(
    conn: asyncpg.Connection, tenant: str, *, first: int, last: int
) -> AsyncGenerator[bundle.Line]:
    """A whole bundle of the seals of a range of numbers, line by line.

    Raises:
        BundleError: a row cannot be written down; a check says what is wrong with it.
    """
    yield HeaderLine(tenant_id=tenant, exported_at=await export.now(conn))
    for key_id, public_key in (await export.keys(conn)).items():
        yield KeyLine(key_id=key_id, public_key=public_key)
    granted = _sound(await export.retirement(conn, tenant))
    if granted is not None:
        yield bundle.seal_line(granted, line="retirement")
    base = _sound(await export.seal(conn, tenant, first - 1))
    if base is not None:
        yield bundle.seal_line(base, line="base")
    seals = members = 0
    async for line in export.log(conn, tenant, first=first, last=last):
        if isinstance(line, Fault):
            _sound(line)
        elif isinstance(line, SignedSeal):
            yield bundle.seal_line(line)
            seals += 1
        else:
            yield MemberLine.model_validate(line)
            members += 1
    yield EndLine(seals=seals, members=members)


def _sound(found: SignedSeal | Fault | None) -> SignedSeal | None:
    if isinstance(found, Fault):
        raise BundleError(f"the log cannot be exported: {found.reason}")
    return found

"""Which commands an adapter may speak for: those of its tenants and tools."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.commands.store import commands, heads
from app.commands.store.commands import Command
from app.errors import NotBoundError, NotFoundError
from app.identity import Identity, allowed_by_binding


async def owner(engine: AsyncEngine, adapter: Identity, command_id: UUID) -> str:
    """The tenant of a command that this adapter may speak for.

    Raises:
        NotFoundError: no such command, or one of a tenant that the adapter is not bound to.
    """
    async with engine.connect() as conn:
        tenant_id = await commands.tenant_of(conn, command_id)
    if tenant_id is None:
        raise NotFoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    if adapter.tenants is not None and tenant_id not in adapter.tenants:
        raise NotBoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    return tenant_id


async def locked(conn: AsyncConnection, adapter: Identity | None, command_id: UUID) -> Command:
    """The command, locked after its key's head until the transaction ends.

    Raises:
        NotFoundError: no such command of the adapter's tenants and tools.
    """
    found = await commands.find(conn, command_id)
    if found is not None and found.ordering_key is not None:
        await heads.lock(conn, tenant_id=found.tenant_id, ordering_key=found.ordering_key)
    command = None if found is None else await commands.lock(conn, command_id)
    if (
        command is None
        or command.saga_role == "saga"
        or not allowed_by_binding(adapter, command.tool, command.method)
    ):
        raise NotFoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    return command

"""How a source is asked: as its target says, with the references of who asks."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from pydantic import ValidationError

from adapters import kinds
from adapters.contract import CallFailedError, Opening
from adapters.credentials import CredentialSources
from adapters.masking import mask
from adapters.targets import Target
from adapters.vault_server import VaultServer
from app.config.worker import WorkerSettings
from app.errors import BadRequestError

ASK_S: Final = 120.0
SHARED: Final = "shared"
"""What `{tenant}` in a reference is where nobody says a tenant."""


@asynccontextmanager
async def opened(target: Target, tenant: str | None = None) -> AsyncGenerator[Opening]:
    """A target, for one question.

    Raises:
        BadRequestError: it cannot be asked; no credential is in the words.
    """
    sources = CredentialSources(vault=_vault())
    secrets = sources.of(tenant or target.tenant or SHARED)
    try:
        kind = kinds.load(target.kind)
        if wrong := [one for one in kind.check(target, {}) if not one.startswith("adapter")]:
            raise BadRequestError(f"target {target.name}: {'; '.join(wrong)}")
        shared = None if kind.share is None else kind.share()
        try:
            async with asyncio.timeout(ASK_S):
                yield Opening(
                    target=target, tenant=tenant or SHARED, secrets=secrets, shared=shared
                )
        finally:
            if shared is not None:
                await shared.close()
    except CallFailedError as error:
        told = error.details.get("stderr")
        words = error.message if not told else f"{error.message} It said: {told}"
        raise BadRequestError(mask(words, secrets.hidden)) from None
    except TimeoutError:
        raise BadRequestError(f"{target.address} did not answer in {ASK_S:g} s") from None
    except LookupError as error:
        raise BadRequestError(str(error)) from None
    finally:
        await sources.close()


def undeclared(target: Mapping[str, Any]) -> AbstractAsyncContextManager[Opening]:
    """A target that is not in the catalog yet: its entry, less its name."""
    return opened(Target.read({"name": "imported", **target}))


def _vault() -> VaultServer | None:
    """The worker's, where its settings are here too."""
    try:
        return WorkerSettings().worker_vault
    except ValidationError:
        return None

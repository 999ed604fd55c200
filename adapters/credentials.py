"""From a reference to its value, where the adapter runs and nowhere else.

`env:NAME`, `file:/path` and `vault:mount/path#field`; `{tenant}` in a reference gives each tenant
its own.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adapters.contract import credential_unavailable
from adapters.masking import forms
from adapters.oauth import Tokens
from adapters.vault_server import VaultServer

if TYPE_CHECKING:
    from adapters.vault import Vault

FILE_BYTES_MAX: Final = 64 * 1024
HIDDEN_MAX: Final = 256


class CredentialSources:
    """Where references are looked up; an executor has one."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        vault: VaultServer | None = None,
    ) -> None:
        self._environment = os.environ if environment is None else environment
        self._vault_server = vault
        self._vault: Vault | None = None
        self._tokens = Tokens()

    def of(self, tenant: str) -> "TargetSecrets":
        """One target's secrets, as a tenant has them."""
        return TargetSecrets(self, tenant, self._tokens)

    async def look_up(self, reference: str) -> str:
        """The value of a reference without placeholders.

        Raises:
            CallFailedError: there is none.
        """
        scheme, _, rest = reference.partition(":")
        if scheme == "vault":
            return await self._opened_vault().value(rest)
        return await self._local(scheme, rest)

    async def close(self) -> None:
        """Close what was opened."""
        await self._tokens.close()
        if self._vault is not None:
            await self._vault.close()

    async def _local(self, scheme: str, rest: str) -> str:
        match scheme:
            case "env":
                value = self._environment.get(rest)
                if value is None:
                    raise credential_unavailable(f"The variable {rest} is not set.")
                return value
            case "file":
                return await asyncio.to_thread(_of_file, rest)
            case _:
                raise credential_unavailable("A credential is no reference: env:, file: or vault:.")

    async def _of_executor(self, reference: str) -> str:
        """What the executor itself logs in with: not from the vault that it logs in to."""
        scheme, _, rest = reference.partition(":")
        return await self._local(scheme, rest)

    def _opened_vault(self) -> "Vault":
        if self._vault_server is None:
            raise credential_unavailable("This executor has no vault.")
        if self._vault is None:
            try:
                made: Any = import_module("adapters.vault").Vault
            except ImportError:
                raise credential_unavailable(
                    "This executor has not the library for vaults."
                ) from None
            self._vault = made(self._vault_server, self._of_executor)
        assert self._vault is not None
        return self._vault


class TargetSecrets:
    """One target's secrets for one tenant, and what they look like in a text."""

    def __init__(self, sources: CredentialSources, tenant: str, tokens: Tokens) -> None:
        self._sources = sources
        self._tenant = tenant
        self._tokens = tokens
        self._shown = OrderedDict[str, frozenset[str]]()
        self.hidden = frozenset[str]()

    async def value(self, reference: str) -> str:
        """The value behind a reference; masked from now on."""
        found = await self._sources.look_up(reference.replace("{tenant}", self._tenant))
        self.hide(found)
        return found

    async def access_token(self, credential: Mapping[str, Any], user: str | None) -> str:
        """A token of an authorization server; masked from now on."""
        token = await self._tokens.token(credential, self._tenant, user, self.value)
        self.hide(token)
        return token

    def forget_token(self, credential: Mapping[str, Any], user: str | None) -> None:
        """Ask for another the next time."""
        self._tokens.forget(credential, self._tenant, user)

    def hide(self, value: str) -> None:
        """Mask this too; of values that change (tokens), the last hundreds are."""
        if value in self._shown:
            self._shown.move_to_end(value)
            return
        self._shown[value] = forms(value)
        while len(self._shown) > HIDDEN_MAX:
            self._shown.popitem(last=False)
        self.hidden = frozenset().union(*self._shown.values())


def _of_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise credential_unavailable("A credential's file is too large.")
        return raw.decode().removesuffix("\n")
    except (OSError, ValueError) as error:
        raise credential_unavailable(
            f"A credential's file cannot be read ({type(error).__name__})."
        ) from None

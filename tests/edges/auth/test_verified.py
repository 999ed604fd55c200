"""A token that was good once is not checked in full again, and is refused as soon as ever."""

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.edges.auth.tokens import LoginFailedError, Reason, Verifier
from devstack.tokens import DevIssuer
from tests.support.stack import wait_for


def token_of(issuer: DevIssuer, **claims: Any) -> str:
    return issuer.token(tenant="demo", user="ada", scopes=("tools",), **claims)


async def verified_for_ever(verifier: Verifier, token: str) -> None:
    async with asyncio.timeout(10):
        while True:
            await verifier.verify(token)
            await asyncio.sleep(0.01)  # keys are read by a task of its own


async def test_the_same_token_is_verified_once(settings: Settings, issuer: DevIssuer) -> None:
    verifier = Verifier(settings)
    token = token_of(issuer)
    assert await verifier.verify(token) is await verifier.verify(token)
    with pytest.raises(LoginFailedError):
        await verifier.verify(token[:-4] + "AAAA")


@pytest.mark.guarantee("hot:token")
async def test_a_token_that_was_good_is_refused_once_its_time_is_over(
    settings: Settings, issuer: DevIssuer
) -> None:
    verifier = Verifier(settings.model_copy(update={"clock_skew_s": 0}))
    token = token_of(issuer, life_s=1)
    await verifier.verify(token)
    with pytest.raises(LoginFailedError) as refused:
        await verified_for_ever(verifier, token)
    assert refused.value.reason is Reason.EXPIRED


def with_own_keys(
    settings: Settings, issuer: DevIssuer, home: Path, *, kept_s: float
) -> tuple[Verifier, Path]:
    """A verifier that reads the issuer's keys from a file of the test's own."""
    keys = home / "jwks.json"
    keys.write_bytes(issuer.jwks.read_bytes())
    trusted = settings.issuers[0].model_copy(update={"jwks_file": keys})
    changes = {"issuers": (trusted,), "issuer_keys_kept_s": kept_s, "issuer_refetch_s": 0}
    return Verifier(settings.model_copy(update=changes)), keys


@pytest.mark.guarantee("hot:token")
async def test_a_token_that_was_good_is_refused_once_its_key_is_withdrawn(
    settings: Settings, issuer: DevIssuer, tmp_path: Path
) -> None:
    verifier, keys = with_own_keys(settings, issuer, tmp_path, kept_s=0)
    token = token_of(issuer)
    await verifier.verify(token)
    other = DevIssuer(tmp_path / "other", audience="x")
    keys.write_bytes(other.jwks.read_bytes())  # another key under the same name
    with pytest.raises(LoginFailedError) as refused:
        await verified_for_ever(verifier, token)
    assert refused.value.reason is Reason.SIGNATURE


@pytest.mark.guarantee("hot:token")
async def test_after_a_quiet_time_a_withdrawn_keys_token_does_not_pass_even_once(
    settings: Settings, issuer: DevIssuer, tmp_path: Path
) -> None:
    verifier, keys = with_own_keys(settings, issuer, tmp_path, kept_s=0.05)
    token = token_of(issuer)
    await verifier.verify(token)
    keys.write_bytes(DevIssuer(tmp_path / "other", audience="x").jwks.read_bytes())
    until = time.monotonic() + 0.2

    async def quiet() -> bool:
        return time.monotonic() > until

    await wait_for(quiet)
    with pytest.raises(LoginFailedError):
        await verifier.verify(token)


@pytest.mark.guarantee("hot:token")
async def test_a_bound_token_that_was_good_is_refused_without_its_certificate(
    settings: Settings, issuer: DevIssuer
) -> None:
    verifier = Verifier(settings)
    mine, other = b"m" * 32, b"o" * 32
    bound = base64.urlsafe_b64encode(mine).rstrip(b"=").decode()
    token = token_of(issuer, cnf={"x5t#S256": bound})
    await verifier.verify(token, certificate=mine)
    for shown in (other, None):
        with pytest.raises(LoginFailedError):
            await verifier.verify(token, certificate=shown)
    await verifier.verify(token, certificate=mine)

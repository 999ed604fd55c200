"""Who signs a seal: a file's key or a plug-in, two while keys rotate, and never falsely."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit import note
from app.audit.keys import FileSigner, signer
from relay.sealer import Sealer, SignerError
from tests.audit.conftest import LOG, Log


async def test_while_keys_rotate_both_sign_and_either_one_is_enough_to_verify(log: Log) -> None:
    await log.append(2)
    await log.seal()
    new = Ed25519PrivateKey.generate()
    both = Sealer(log.pool, [FileSigner(new), FileSigner(log.key)], log=LOG)
    await log.owner.execute("DELETE FROM leases")
    await log.append(2)
    while await both.tick():
        pass
    report = await log.check()
    assert report.fault is None, "an auditor who pins the old key"
    assert (await log.verify())["ok"]
    after = Sealer(log.pool, [FileSigner(new)], log=LOG)
    await log.owner.execute("DELETE FROM leases")
    await log.append(1)
    while await after.tick():
        pass
    report = await log.check()
    assert report.fault is not None
    assert "not signed by a known key" in report.fault.reason
    assert (report.fault.seal_no, report.fault.seq) == (3, 5)
    assert (await log.check(pinned=False)).fault is None
    assert len(await log.owner.fetch("SELECT FROM audit.keys")) == 2


class BadSigner(FileSigner):
    async def sign(self, message: bytes) -> bytes:
        return await super().sign(message + b"!")


async def test_a_false_signature_is_not_written(log: Log) -> None:
    await log.append(1)
    bad = Sealer(log.pool, [BadSigner(log.key)], log=LOG)
    with pytest.raises(SignerError):
        await bad.tick()
    with pytest.raises(SignerError):
        await bad.tick()
    assert await log.sealed() == 0


async def test_a_plug_in_signs_instead_of_a_file(tmp_path: Path) -> None:
    made = signer("tests.audit.test_seal_signers:key_service")
    assert note.signed(b"x", await made.sign(b"x"), made.public_key)


def key_service() -> FileSigner:
    """What a KMS plug-in offers."""
    return FileSigner(Ed25519PrivateKey.generate())

"""A target's TLS as `ssl` takes it; keys go from their source to memory, and to no disk."""

import os
import ssl

from adapters.contract import MISCONFIGURED, CallFailedError, Known, Secrets
from adapters.targets import Tls


async def context(tls: Tls, secrets: Secrets) -> ssl.SSLContext:
    """Whom a client trusts and what it shows.

    Raises:
        CallFailedError: a reference has no value, or the value is no certificate or key.
    """
    ca = None if tls.ca is None else await secrets.value(tls.ca)
    made = ssl.create_default_context(cadata=ca)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate is not None and tls.key is not None:
        chain = [await secrets.value(one) for one in (tls.certificate, tls.key)]
        try:
            _show(made, "\n".join(chain).encode())
        except (OSError, ValueError) as error:
            words = f"The target's certificate or key cannot be used ({type(error).__name__})."
            raise CallFailedError(Known.REFUSED, MISCONFIGURED, words) from None
    return made


def _show(made: ssl.SSLContext, chain: bytes) -> None:
    """`load_cert_chain` takes a path only: that of a file that is memory."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(chain)
        file.flush()
        made.load_cert_chain(f"/proc/self/fd/{descriptor}")

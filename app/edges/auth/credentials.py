"""Who asks: what a request shows of a token, a proof and a client certificate, put together."""

from enum import StrEnum

from starlette.requests import HTTPConnection

from app.edges.auth.certificates import Certificates, thumbprint
from app.edges.auth.dpop import Proofs
from app.edges.auth.tokens import LoginFailedError, Reason, Verifier
from app.errors import NotAuthenticatedError
from app.identity import Identity


class Scheme(StrEnum):
    """How a token is shown (RFC 6750, 2.1; RFC 9449, 7.1)."""

    BEARER = "bearer"
    DPOP = "dpop"


class Credentials:
    """Turns what a request shows into an identity, or says why not."""

    def __init__(self, *, verifier: Verifier, certificates: Certificates, proofs: Proofs) -> None:
        self._verifier = verifier
        self._certificates = certificates
        self._proofs = proofs

    async def identity(self, connection: HTTPConnection) -> Identity:
        """Who asks: by the token where there is one, else by the client certificate.

        Raises:
            NotAuthenticatedError: neither is there, or what is there is not good.
            IssuerUnavailableError: the token cannot be checked now.
            UnavailableError: its proof cannot be remembered now.
        """
        token = authorization(connection)
        certificate = self._certificates.shown(connection)
        if token is None:
            if certificate is not None:
                return self._certificates.identity(certificate)
            raise NotAuthenticatedError("Send 'Authorization: Bearer <token>'.")
        scheme, text = token
        bound = None if certificate is None else thumbprint(certificate)
        if scheme is Scheme.BEARER:
            return await self._verifier.verify(text, certificate=bound)
        proof = self._proofs.shown(connection)
        # The token first: who has none that is good, and of this key, costs no other signature.
        who = await self._verifier.verify(text, certificate=bound, key=proof.thumbprint)
        scope = connection.scope
        await self._proofs.check(proof, token=text, method=scope["method"], path=scope["path"])
        return who


def authorization(connection: HTTPConnection) -> tuple[Scheme, str] | None:
    """The token of the Authorization header and its scheme; None if there is no such header.

    Raises:
        LoginFailedError: there are two, or one of another scheme.
    """
    values = connection.headers.getlist("authorization")
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() not in set(Scheme) or not token.strip():
        raise LoginFailedError(Reason.MALFORMED, why="not one token of a scheme that is known")
    return Scheme(scheme.lower()), token.strip()

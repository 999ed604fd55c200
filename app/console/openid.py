"""Sign-in by OpenID Connect: the authorization code flow with PKCE (Core 1.0, 3.1; RFC 7636).

The ID token is judged by the same verifier as bearer tokens are, keys and claims alike, with the
console's client id as its audience. What a sign-in must remember until the person comes back
(state, nonce, verifier, page) is in a cookie of the browser that began it, so nothing is kept for
strangers.
"""

import base64
import hashlib
import hmac
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx
import orjson

from app.config import Settings
from app.edges.auth.issuer_keys import BYTES_MAX, FETCH_S, as_object, get
from app.edges.auth.tokens import LoginFailedError, Reason, Verifier, parts
from app.errors import IssuerUnavailableError
from app.identity import Identity
from app.trust import Issuer, is_safe

CALLBACK: Final = "/console/sign-in/callback"
SIGN_IN_S: Final = 600
"""In which a person who was sent to the issuer has to come back."""
ERRORS_SHOWN_MAX: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A sign-in that is under way, as its cookie has it."""

    state: str
    nonce: str
    verifier: str
    page: str  # where the person was about to go

    def cookie(self) -> str:
        """The cookie's value."""
        return base64.urlsafe_b64encode(orjson.dumps(asdict(self))).decode()

    @classmethod
    def of(cls, cookie: str) -> "Begun | None":
        """From the cookie; None where it is none of ours."""
        try:
            found = orjson.loads(base64.urlsafe_b64decode(cookie))
            made = cls(**found)
        except (ValueError, TypeError):
            return None
        return made if all(isinstance(one, str) for one in asdict(made).values()) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where an issuer does what (Discovery 1.0, 3)."""

    authorization: str
    token: str
    end_session: str | None
    by_post: bool  # the secret goes into the body


class OpenId:
    """The console as a client of its issuer."""

    def __init__(self, settings: Settings, issuer: Issuer) -> None:
        assert settings.console_client_id is not None
        self.issuer = issuer
        self._client_id = settings.console_client_id
        secret = settings.console_client_secret
        self._secret = None if secret is None else secret.get_secret_value()
        self._scopes = settings.console_scopes
        self._base = settings.public_url.rstrip("/")
        self._kept_s = settings.issuer_keys_kept_s
        changes = {"audience": self._client_id, "token_type": None}
        mine = issuer.model_copy(update=changes)
        self._verifier = Verifier(settings.model_copy(update={"issuers": (mine,)}))
        self._endpoints: tuple[float, Endpoints] | None = None

    async def begin(self, page: str) -> tuple[str, Begun]:
        """Where to send somebody who wants to sign in, and what to remember of it.

        Raises:
            IssuerUnavailableError: the issuer does not say where.
        """
        endpoints = await self._discovered()
        begun = Begun(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            page=page,
        )
        challenge = hashlib.sha256(begun.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._base + CALLBACK,
            "scope": " ".join(self._scopes),
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        joined = "&" if "?" in endpoints.authorization else "?"
        return f"{endpoints.authorization}{joined}{urlencode(asked)}", begun

    async def finish(self, begun: Begun, answer: Mapping[str, str]) -> Identity:
        """Who came back from the issuer.

        Raises:
            LoginFailedError: nobody that may sign in here; the audit trail says why.
            IssuerUnavailableError: the issuer does not answer.
        """
        if not hmac.compare_digest(begun.state.encode(), answer.get("state", "").encode()):
            raise self._failed("another sign-in's state")
        # A mix-up of issuers shows here, where they say who they are (RFC 9207).
        if answer.get("iss", self.issuer.issuer) != self.issuer.issuer:
            raise self._failed("the answer is of another issuer")
        if "code" not in answer:
            said = answer.get("error", "no code")
            raise self._failed(f"the issuer said {said[:ERRORS_SHOWN_MAX]}")
        token = await self._exchanged(answer["code"], begun.verifier)
        who = await self._verifier.verify(token)
        _, claims = parts(token)  # they were verified a line above
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(
            nonce.encode(), begun.nonce.encode()
        ):
            raise self._failed("another sign-in's nonce")
        audience = claims["aud"]
        several = isinstance(audience, list) and len(audience) > 1
        if claims.get("azp", None if several else self._client_id) != self._client_id:
            raise self._failed("azp is another client")
        return who

    async def end_url(self) -> str | None:
        """Where the issuer's own session is ended, where it has such a place (RP-Initiated Logout).

        Nothing is said of who signs out: no token is kept for it.
        """
        try:
            endpoints = await self._discovered()
        except IssuerUnavailableError:
            return None
        if endpoints.end_session is None:
            return None
        asked = {
            "client_id": self._client_id,
            "post_logout_redirect_uri": f"{self._base}/console/signed-out",
        }
        joined = "&" if "?" in endpoints.end_session else "?"
        return f"{endpoints.end_session}{joined}{urlencode(asked)}"

    def _failed(self, why: str) -> LoginFailedError:
        return LoginFailedError(Reason.CLAIMS, issuer=self.issuer.issuer, why=why)

    def _client(self) -> httpx.AsyncClient:
        authorities = self.issuer.ca_file
        context = ssl.create_default_context(
            cafile=None if authorities is None else str(authorities)
        )
        # A redirect is not followed: it could leave https, or this issuer.
        return httpx.AsyncClient(verify=context, timeout=FETCH_S)

    async def _discovered(self) -> Endpoints:
        if self._endpoints is not None and time.monotonic() - self._endpoints[0] < self._kept_s:
            return self._endpoints[1]
        url = f"{self.issuer.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            async with self._client() as client:
                found = endpoints_of(await get(client, url), self.issuer.issuer)
        except (OSError, TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._unavailable() from error
        self._endpoints = time.monotonic(), found
        return found

    async def _exchanged(self, code: str, verifier: str) -> str:
        """The ID token that a code is good for, once."""
        endpoints = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._base + CALLBACK,
            "code_verifier": verifier,
        }
        auth = None
        if self._secret is None or endpoints.by_post:
            form |= {"client_id": self._client_id}
            form |= {} if self._secret is None else {"client_secret": self._secret}
        else:  # each part is encoded first (RFC 6749, 2.3.1)
            auth = httpx.BasicAuth(quote(self._client_id, safe=""), quote(self._secret, safe=""))
        try:
            async with (
                self._client() as client,
                client.stream(
                    "POST",
                    endpoints.token,
                    data=form,
                    auth=auth,
                    headers={"Accept": "application/json"},
                ) as answer,
            ):
                body = await _whole(answer)
        except (OSError, TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._unavailable() from error
        return self._id_token(body)

    def _id_token(self, body: bytes) -> str:
        try:
            found: Any = as_object(body)
        except ValueError as error:
            raise self._failed("the token endpoint answered no JSON object") from error
        token = found.get("id_token")
        if not isinstance(token, str):
            raise self._failed(f"no ID token: {str(found.get('error'))[:ERRORS_SHOWN_MAX]}")
        return token

    def _unavailable(self) -> IssuerUnavailableError:
        return IssuerUnavailableError(
            f"{self.issuer.issuer} does not answer now, so nobody can sign in by it. Try again.",
            retry_after_s=5,
        )


async def _whole(answer: httpx.Response) -> bytes:
    """A token endpoint's answer, of bounded size; a refusal is one too.

    Raises:
        ValueError: it is too long, or the endpoint is broken.
    """
    body = bytearray()
    async for part in answer.aiter_bytes():
        body += part
        if len(body) > BYTES_MAX:
            raise ValueError("the token endpoint answered too much")
    if answer.is_server_error:
        raise ValueError(f"the token endpoint answered {answer.status_code}")
    return bytes(body)


def endpoints_of(document: Mapping[str, Any], issuer: str) -> Endpoints:
    """The endpoints of a discovery document.

    Raises:
        ValueError: it is another issuer's, or names none that is safe.
    """
    if document.get("issuer") != issuer:
        raise ValueError("the discovery document is of another issuer")
    found: dict[str, str | None] = {}
    for name in ("authorization_endpoint", "token_endpoint", "end_session_endpoint"):
        url = document.get(name)
        if url is not None and not (isinstance(url, str) and is_safe(url)):
            raise ValueError(f"the discovery document's {name} is not https: {url!r}")
        found[name] = url
    authorization, token = found["authorization_endpoint"], found["token_endpoint"]
    if authorization is None or token is None:
        raise ValueError("the discovery document names no place to sign in")
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Endpoints(
        authorization=authorization,
        token=token,
        end_session=found["end_session_endpoint"],
        by_post=isinstance(methods, list) and "client_secret_basic" not in methods,
    )

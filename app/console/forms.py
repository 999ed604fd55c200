"""What a page's form sends: read whole, held to its session, and of texts that can be kept."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from app.console.sessions import Session
from app.errors import BadRequestError, ForbiddenError

FIELDS_MAX: Final = 2000
REASON_CHARS_MAX: Final = 500
CSRF: Final = "csrf"


class ForgedError(ForbiddenError):
    """A form that no page of this session sent."""

    code = "forged"
    title = "This form did not come from a page of your session"


@dataclass(frozen=True, slots=True)
class Form:
    """A form's fields; a name may stand there several times."""

    fields: Mapping[str, Sequence[str]]

    def get(self, name: str) -> str:
        """A field's value; empty where it was not sent. Of several the last one."""
        return (self.fields.get(name) or ("",))[-1]

    def all(self, name: str) -> list[str]:
        """Each value of a field, once, in its order."""
        return list(dict.fromkeys(self.fields.get(name, ())))

    def reason(self) -> str:
        """Why something is done; it goes into the audit trail.

        Raises:
            BadRequestError: there is none, or a long one.
        """
        found = self.get("reason").strip()
        if not 0 < len(found) <= REASON_CHARS_MAX:
            raise BadRequestError(
                f"Give a reason of at most {REASON_CHARS_MAX} characters; the audit trail keeps it."
            )
        return found


async def posted(request: Request, session: Session | None) -> Form:
    """The fields of a form that a page of this session sent.

    Without a session (at the sign-in) its origin alone is held.

    Raises:
        ForgedError: it came from another origin, or without the session's token.
        BadRequestError: it is no form, or has a text that cannot be kept.
    """
    same_origin(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadRequestError("The console takes forms only (application/x-www-form-urlencoded).")
    found: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=FIELDS_MAX,
        )
    except ValueError as error:
        raise BadRequestError("The form cannot be read, or has too many fields.") from error
    for name, value in pairs:
        if "\x00" in value:
            raise BadRequestError("A field holds a NUL character, which cannot be kept.")
        found.setdefault(name, []).append(value.replace("\r\n", "\n"))
    form = Form(found)
    if session is not None and not hmac.compare_digest(
        form.get(CSRF).encode(), session.csrf.encode()
    ):
        raise ForgedError("Load the page again, and send its form from there. Nothing was done.")
    return form


def same_origin(request: Request) -> None:
    """Hold a request that changes something to a page of this very host.

    Raises:
        ForgedError: its Origin is another, or there is none: each browser sends it with a form.
    """
    host = request.headers.get("host", "")
    if not host or request.headers.get("origin", "") not in {f"http://{host}", f"https://{host}"}:
        raise ForgedError("It came from another site's page, or from no page. Nothing was done.")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise ForgedError("It came from another site's page. Nothing was done.")

"""Every deliberate error: a stable code, an HTTP status (RFC 9457), a sentence on what to do."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar, Final


class BrokerError(Exception):
    """A refusal with a stable code; whatever it refuses has left nothing behind."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "The broker could not do this"

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class BadRequestError(BrokerError):
    """The request is not of the contract's shape."""

    code = "bad_request"
    status = 400
    title = "The request is malformed"


class NotAuthenticatedError(BrokerError):
    """There is no valid token."""

    code = "not_authenticated"
    status = 401
    title = "A valid bearer token is needed"


class ForbiddenError(BrokerError):
    """The token is valid and does not allow this."""

    code = "forbidden"
    status = 403
    title = "This token does not allow that"


class DeclinedError(BrokerError):
    """The person behind the client said no."""

    code = "declined"
    status = 403
    title = "The user said no"


class UnansweredError(BrokerError):
    """A question was dismissed: nobody said yes or no."""

    code = "unanswered"
    status = 422
    title = "Nobody answered"


class UnknownToolError(BrokerError):
    """No such tool, or none that the caller may see."""

    code = "unknown_tool"
    status = 404
    title = "No such tool"


class NotFoundError(BrokerError):
    """No such command (or saga, or definition) of the caller's."""

    code = "not_found"
    status = 404
    title = "Not found"


class NotBoundError(NotFoundError):
    """The command is not one that this adapter may speak for; it reads as one that never was."""


class InvalidArgumentsError(BrokerError):
    """The arguments do not fit the tool's JSON Schema."""

    code = "invalid_arguments"
    status = 422
    title = "The arguments do not fit the tool's schema"


class OversizeError(BrokerError):
    """The body or the arguments are over their limit."""

    code = "oversize"
    status = 413
    title = "Too large"


class SlowBodyError(BrokerError):
    """The body did not come in time."""

    code = "slow_body"
    status = 408
    title = "The body came too slowly"


class UnsupportedEncodingError(BrokerError):
    """The body is compressed."""

    code = "unsupported_encoding"
    status = 415
    title = "The body's encoding is not read"


class MisdirectedError(BrokerError):
    """The Host header names a host that is not served here."""

    code = "misdirected"
    status = 421
    title = "This host is not served here"


class StrangeOriginError(BrokerError):
    """A browser's page of an origin that is not answered."""

    code = "strange_origin"
    status = 403
    title = "This origin is not answered"


class IdempotencyConflictError(BrokerError):
    """The idempotency key was used for another request."""

    code = "idempotency_conflict"
    status = 422
    title = "This idempotency key belongs to another request"


class CorrelationConflictError(BrokerError):
    """The correlation id was used for another command."""

    code = "correlation_conflict"
    status = 409
    title = "This correlation id belongs to another command"


class QueueFullError(BrokerError):
    """The tenant's queue is at its bound; `retry_after_s` says when to try again."""

    code = "queue_full"
    status = 429
    title = "The queue is full"


class HeldError(BrokerError):
    """An operator holds what is called, and has such calls refused."""

    code = "held"
    status = 423
    title = "An operator holds this"


class StaleAttemptError(BrokerError):
    """The adapter speaks for an attempt that is not the current one."""

    code = "stale_attempt"
    status = 409
    title = "This attempt is not the current one"


class ContradictionError(BrokerError):
    """The adapter's report contradicts the one that ended the command."""

    code = "contradiction"
    status = 409
    title = "The command has ended otherwise"


class UnprocessableReportError(BrokerError):
    """The report cannot be kept, however often it is sent."""

    code = "unprocessable_report"
    status = 422
    title = "The report cannot be kept"


class NotCancellableError(BrokerError):
    """The command or saga is past the point where that can be asked."""

    code = "not_cancellable"
    status = 409
    title = "It is too late for that"


class WebhooksOffError(BrokerError):
    """No key is set by which secrets of webhooks are kept."""

    code = "webhooks_off"
    status = 409
    title = "Webhooks are off"


class LimitReachedError(BrokerError):
    """There are as many of it as there may be."""

    code = "limit_reached"
    status = 409
    title = "There are as many as there may be"


class UnavailableError(BrokerError):
    """The database is away; nothing was written, or a retry with the same key finds what was."""

    code = "unavailable"
    status = 503
    title = "The broker is not ready"


class IssuerUnavailableError(UnavailableError):
    """A token's issuer does not answer and its keys are not known: the token cannot be checked."""

    code = "issuer_unavailable"
    title = "The token's issuer cannot be asked"


class InvalidDefinitionError(BrokerError):
    """A saga's definition or plan cannot be run; `problems` names each field and what to do."""

    code = "invalid_definition"
    status = 422
    title = "This saga cannot be run as it is written"


class SagaClosedError(BrokerError):
    """The saga takes no more steps, or is past the point where that can be asked."""

    code = "saga_closed"
    status = 409
    title = "The saga takes no more steps"


QUOTED_MAX: Final = 200
"""Characters that an error quotes of what came in."""


PROBLEMS_MAX: Final = 50
"""Problems that one error tells of."""


def cut(text: str) -> str:
    """A text as an error may quote it: its beginning and, as reasons stand there, its end."""
    half = QUOTED_MAX // 2
    return text if len(text) <= QUOTED_MAX else f"{text[:half]}…{text[-half:]}"


def problems_of(problems: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """Problems as an error tells them, of very many the first: (place, what is wrong)."""
    return [
        {"at": cut(at), "problem": cut(problem)} for at, problem in islice(problems, PROBLEMS_MAX)
    ]

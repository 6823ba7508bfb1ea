"""The errors of this package. Each names what failed, its cause and the remedy, as fields that ``report`` renders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .text import MAX_PHRASE, printable

_CREDENTIALS = re.compile(r"(?<=://)\S*@")  # part of a URL; an unquoted password may contain any character


def safe_message(error: Any, *quoting: type[Exception]) -> str:
    """Return the message of an exception of a client or driver, or only its class if the message may quote a secret.

    :param quoting: classes whose messages quote what they reject, as those of ValueError do.
    """
    if isinstance(error, (ValueError, *quoting)) and not isinstance(error, OSError):
        return f"{type(error).__name__} (its message is hidden because it may contain a secret)"
    return str(error)


def without_credentials(text: object, limit: int = MAX_PHRASE) -> str:
    """Return a text as :func:`~.text.printable` does, with the credentials of its URLs masked."""
    # Masked before it is cut off: a URL that ends within the password would not be recognized. Bounded before that,
    # because the text may be very long.
    return printable(_CREDENTIALS.sub("***@", str(text)[: 4 * MAX_PHRASE]), limit)


class KpoCleanupError(Exception):
    """An error that fails a task of the cleanup, or the deletion of one pod.

    :param summary: the operation that failed, or the value that was rejected.
    :param cause: why, such as ``403 Forbidden``.
    :param remedy: what to do about it, if that is known.
    :param server_message: the server's own message, which may be long and may name a single object.
    """

    is_retryable = False  # whether another attempt may succeed
    retry_after: float | None = None  # seconds to wait before the next attempt, if the server named them

    def __init__(self, summary: str, *, cause: str = "", remedy: str = "", server_message: str = "") -> None:
        fields = (summary, cause, remedy, server_message)
        self.summary, self.cause, self.remedy, self.server_message = map(without_credentials, fields)
        super().__init__(self.summary)

    @property
    def fields(self) -> dict[str, str]:
        """Return the fields by name, without the empty ones: the arguments of an equal error."""
        others = {"cause": self.cause, "remedy": self.remedy, "server_message": self.server_message}
        return {"summary": self.summary, **{name: text for name, text in others.items() if text}}

    @property
    def signature(self) -> tuple[str, str, str]:
        """Return what the same failure of several pods has in common."""
        return self.summary, self.cause, self.remedy

    def __str__(self) -> str:
        """Return everything in one line, for tracebacks."""
        what = f"{self.summary}: {self.cause}" if self.cause else self.summary
        server = f"server message: {self.server_message}" if self.server_message else ""
        return "; ".join(filter(None, [what, self.remedy, server]))


def to_error(error: BaseException) -> KpoCleanupError:
    """Return an error of this package as it is, and wrap any other exception in one that names its type."""
    return error if isinstance(error, KpoCleanupError) else KpoCleanupError(f"{type(error).__name__}: {error}")


HIDDEN = object()  # replaces the value of anything that is not an option: it may be a secret


@dataclass(frozen=True)
class SettingError:
    """A value that was rejected."""

    option: str
    value: Any
    origin: str
    remedy: str

    @property
    def assignment(self) -> str:
        """Return what was set, and where."""
        # Without square brackets, which Airflow's command line drops because it takes them for markup.
        shown = "" if self.value is HIDDEN else f"={printable(repr(self.value))}"
        return f"{printable(self.option)}{shown} ({self.origin})"

    def __str__(self) -> str:
        return f"{self.assignment}:\n  {self.remedy}"


class SettingsError(KpoCleanupError):
    """A setting is invalid.

    :param errors: the values of options that were rejected.
    """

    def __init__(self, summary: str, *, errors: Sequence[SettingError] = (), **fields: str) -> None:
        super().__init__(summary, **fields)
        self.errors = tuple(errors)

    def __str__(self) -> str:
        """Return everything, with each rejected value in an item of its own."""
        return "\n- ".join([super().__str__(), *map(str, self.errors)])


class TaskInstanceSourceError(KpoCleanupError):
    """Airflow did not answer a query about task instances. That never means "there are none"."""

    is_retryable = True


class SourceUnusable(TaskInstanceSourceError):
    """The source cannot be used: its answers are another Airflow's or stale, or it rejects the credentials."""


class CallerNotRunning(SourceUnusable):
    """The source does not show the cleanup's own task as running: it is stale, or the task has ended by now."""


class TooSlow(TaskInstanceSourceError):
    """Airflow's answer was out of date by the time it arrived."""


class KubernetesError(KpoCleanupError):
    """The Kubernetes API did not return what was needed."""

    outcome_unknown = True  # whether the request may have been carried out nevertheless
    has_response = True  # whether any server responded


class UnexpectedResponse(KubernetesError):
    """A response that does not come from a Kubernetes API server, but from a gateway or a login page."""

    def __init__(self, summary: str, **fields: str) -> None:
        super().__init__(summary, remedy="check that the connection's host is a Kubernetes API server", **fields)


class RetryableApiError(KubernetesError):
    """No response, or one that asks the client to retry later."""

    is_retryable = True

    def __init__(
        self,
        summary: str,
        *,
        retry_after: float | None = None,
        outcome_unknown: bool = True,
        has_response: bool = True,
        **fields: str,
    ) -> None:
        super().__init__(summary, **fields)
        self.retry_after, self.outcome_unknown, self.has_response = retry_after, outcome_unknown, has_response


class ApiStatusError(KubernetesError):
    """A final error status of the API server, which has not carried out the request."""

    outcome_unknown = False


class BadRequest(ApiStatusError):
    """400: the request itself is wrong, such as its label selector."""


class Forbidden(ApiStatusError):
    """403: the authorizer, such as RBAC, denied the request."""


class AdmissionDenied(ApiStatusError):
    """An admission webhook, policy or plugin denied the request, with any status. It concerns only this object."""

    def __init__(self, summary: str, *, denied_by: str, **fields: str) -> None:
        remedy = f"exempt the cleanup from {denied_by}, or annotate the pod with kpo-cleanup/protect to keep it"
        super().__init__(summary, remedy=remedy, **fields)


class NotFound(ApiStatusError):
    """404: there is no such object."""


class Conflict(ApiStatusError):
    """409: a precondition failed."""


class Expired(ApiStatusError):
    """410: the continue token of a listing is too old."""

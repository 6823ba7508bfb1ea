"""The errors of this project: each names the thing, its value and the remedy."""

from __future__ import annotations


class KpoCleanupError(Exception):
    """An error that ends a run of the cleanup as failed."""

    is_retryable = False  # whether another try may succeed


class SettingsError(KpoCleanupError):
    """An option has a value that is not allowed, or there is no such option."""


class TaskInstanceSourceError(KpoCleanupError):
    """Airflow gave no answer about task instances, which never means "there are none"."""

    is_retryable = True


class KubernetesError(KpoCleanupError):
    """The Kubernetes API did not give the answer that was needed.

    :param what: the request, as people say it.
    :param problem: the thing that came in place of the answer, such as ``403 Forbidden``.
    :param remedy: what to do about it, if that is known.
    :param said: the server's own words, which can be long.
    """

    def __init__(self, what: str, problem: str, remedy: str = "", said: str = "") -> None:
        super().__init__(what, problem, remedy, said)
        self.what, self.problem, self.remedy, self.said = what, problem, remedy, said

    def __str__(self) -> str:
        said = f"the server says: {self.said}" if self.said else ""
        return "; ".join(filter(None, [f"{self.what}: {self.problem}", self.remedy, said]))


class ApiStatusError(KubernetesError):
    """An answer of a Kubernetes API server that a second attempt will not change.

    :param status: the HTTP status code.
    """

    def __init__(self, status: int, what: str, problem: str, remedy: str = "", said: str = "") -> None:
        super().__init__(what, problem, remedy, said)
        self.status = status


class UnexpectedResponse(KubernetesError):
    """An answer from something that is no Kubernetes API server: a gateway, a login page."""


class RetryableApiError(KubernetesError):
    """No answer, or an answer that asks to come back later.

    :param retry_after: seconds, if the server named them.
    :param outcome_unknown: nobody knows whether the request was carried out.
    """

    is_retryable = True

    def __init__(
        self,
        what: str,
        problem: str,
        said: str = "",
        retry_after: float | None = None,
        outcome_unknown: bool = True,
    ) -> None:
        super().__init__(what, problem, "", said)
        self.retry_after, self.outcome_unknown = retry_after, outcome_unknown

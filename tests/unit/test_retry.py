"""When a failed request is sent again, and after how long."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.errors import Forbidden, KpoCleanupError, RetryableApiError, UnexpectedResponse
from include.kpo_cleanup.retry import RetryPolicy, retry_after
from include.kpo_cleanup.text import LINE

POLICY = RetryPolicy(attempts=4, deadline=90, initial_backoff=1, max_backoff=3)
NO_DELAY = RetryPolicy(initial_backoff=0)
RETRYABLE = RetryableApiError("listing pods", cause="503 Service Unavailable")


class Server:
    """A server that fails a few times before it answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.requests: list[str] = []

    def get(self, path: str) -> str:
        self.requests.append(path)
        if self._errors:
            raise self._errors.pop(0)
        return f"the content of {path}"


class TestTheNextAttempt:
    @pytest.mark.parametrize(("attempts", "longest"), [(1, 1), (2, 2), (3, 3)])
    def test_it_waits_a_random_time_that_grows_exponentially_up_to_the_maximum(
        self, attempts: int, longest: float
    ) -> None:
        delays = {POLICY.next_delay(RETRYABLE, attempts, 0) for _ in range(200)}
        assert len(delays) > 1
        assert longest * 0.8 < max(delay or 0 for delay in delays) <= longest

    @pytest.mark.parametrize(("asked", "delay"), [(0.0, 0.0), (2.5, 2.5), (3_600.0, 3.0)])
    def test_it_waits_as_long_as_the_server_asks_up_to_the_maximum(self, asked: float, delay: float) -> None:
        assert POLICY.next_delay(RetryableApiError("listing pods", retry_after=asked), 1, 0) == delay

    @pytest.mark.parametrize(
        "error",
        [Forbidden("listing pods"), UnexpectedResponse("listing pods", cause="404"), KpoCleanupError("anything")],
        ids=lambda error: type(error).__name__,
    )
    def test_there_is_none_after_an_error_that_is_not_retryable(self, error: KpoCleanupError) -> None:
        assert POLICY.next_delay(error, 1, 0) is None

    def test_there_is_none_after_the_last_attempt(self) -> None:
        assert POLICY.next_delay(RETRYABLE, POLICY.attempts - 1, 0) is not None
        assert POLICY.next_delay(RETRYABLE, POLICY.attempts, 0) is None

    def test_there_is_none_that_would_start_after_the_deadline(self) -> None:
        error = RetryableApiError("listing pods", retry_after=2)
        assert POLICY.next_delay(error, 1, POLICY.deadline - 2) == 2
        assert POLICY.next_delay(error, 1, POLICY.deadline - 1) is None


class TestCalling:
    def test_a_failing_call_is_retried_until_it_succeeds(self) -> None:
        server = Server(*[RETRYABLE] * (NO_DELAY.attempts - 1))
        assert NO_DELAY.call(server.get, "/pods") == "the content of /pods"
        assert server.requests == ["/pods"] * NO_DELAY.attempts

    def test_the_error_of_the_last_attempt_is_raised(self) -> None:
        errors = [RetryableApiError(f"attempt {number + 1}") for number in range(NO_DELAY.attempts)]
        with pytest.raises(RetryableApiError, match=f"attempt {NO_DELAY.attempts}"):
            NO_DELAY.call(Server(*errors).get, "/pods")

    @pytest.mark.parametrize("error", [Forbidden("listing pods"), ConnectionError("odd")], ids=repr)
    def test_any_other_error_is_raised_at_once(self, error: Exception) -> None:
        server = Server(error)
        with pytest.raises(type(error)):
            NO_DELAY.call(server.get, "/pods")
        assert server.requests == ["/pods"]

    def test_an_outage_is_logged_once_however_many_requests_and_attempts_fail(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = RetryPolicy(initial_backoff=0)
        for path in ("/pods", "/namespaces"):
            policy.call(Server(*(RetryableApiError("reading", cause=f"{n} bytes read") for n in range(3))).get, path)
        policy.call(Server(RETRYABLE).get, "/pods")
        assert caplog.messages == [
            "reading: 0 bytes read; retrying",
            "listing pods: 503 Service Unavailable; retrying",
        ]

    @given(st.text("ab /:;,", max_size=300), st.text("ab /:;,", max_size=300))
    def test_no_line_about_an_outage_is_too_long(self, cause: str, remedy: str) -> None:
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger(RetryPolicy.__module__)
        logger.addHandler(handler)
        try:
            RetryPolicy().warn_once(RetryableApiError("listing pods", cause=cause, remedy=remedy), "retrying")
        finally:
            logger.removeHandler(handler)
        assert lines
        assert [line for line in lines if len(line) > LINE] == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("1.5", 1.5),
        ("-5", 0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("Tue, 24 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_the_retry_after_header_is_read_if_it_is_a_number(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}) == seconds
    assert retry_after({}) is None

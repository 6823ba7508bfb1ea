"""Save the last log lines of pods before they are deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import wait

from ..errors import KpoCleanupError, NotFound, to_error
from ..kube.interface import LOG_TIMEOUT, Cluster
from ..report import log_lines
from ..retry import RetryPolicy
from ..workloads.workload import Workload
from .steps import worker_threads
from .target import Target

log = logging.getLogger(__name__)

SLOW_LOG = KpoCleanupError("reading the log of a pod", cause=f"no response within {LOG_TIMEOUT} s")
MAX_LOG_SECONDS = 30  # seconds for the logs of all batches: a hanging kubelet must not delay every small batch


class PodLogs:
    """Reads and logs last lines, as long as all requests together take little time.

    :param lines: the number of lines per pod; 0 reads none.
    """

    def __init__(self, cluster: Cluster, lines: int, monotonic: Callable[[], float], retry_policy: RetryPolicy) -> None:
        self._cluster, self._lines, self._monotonic, self._retry_policy = cluster, lines, monotonic, retry_policy
        self._seconds = 0.0  # total duration of the requests

    def read(self, batch: Iterable[Target]) -> None:
        """Read and log the last lines of a batch's pods. Call it before the snapshot is taken, which must be fresh.

        A log that cannot be read in time is left out, because it must not delay the deletion.
        """
        unread = [each for each in batch if self._lines and each.log is None and _has_run(each.workload)]
        if not unread or self._seconds > MAX_LOG_SECONDS:
            return
        started = self._monotonic()
        with worker_threads() as pool:
            requests = {pool.submit(self._cluster.read_log, each.workload, self._lines): each for each in unread}
            for request in wait(requests, LOG_TIMEOUT).not_done:
                request.cancel()
        self._seconds += self._monotonic() - started
        for request, target in requests.items():
            target.log = ()
            error = request.exception() if request.done() and not request.cancelled() else SLOW_LOG
            if error is None:
                target.log = tuple(request.result())
                for line in log_lines(target.workload, target.log) if target.log else ():
                    log.info("%s", line)
            elif not isinstance(error, NotFound):
                self._retry_policy.warn_once(to_error(error), "its last lines are not saved")


def _has_run(workload: Workload) -> bool:
    return workload.main is not None and workload.main.has_run

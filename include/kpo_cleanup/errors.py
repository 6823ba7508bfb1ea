"""The errors of this project: each says what, the value, and what to do about it."""

from __future__ import annotations


class KpoCleanupError(Exception):
    """Anything that ends a run of the cleanup as failed."""


class SettingsError(KpoCleanupError):
    """An option has a value that is not allowed, or there is no such option."""


class KubernetesError(KpoCleanupError):
    """The Kubernetes API did not give the answer that was needed."""


class TaskInstanceSourceError(KpoCleanupError):
    """Airflow could not be asked about task instances; never to be read as "there are none"."""


class ReapError(KpoCleanupError):
    """Some pods could not be listed or deleted; all that could be was."""

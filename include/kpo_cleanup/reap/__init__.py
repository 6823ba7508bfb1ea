"""Verify each zombie again right before deleting it, and account for all of them.

The main thread owns all state. A worker thread sends one request and returns the response.
"""

from .reaper import reap

__all__ = ["reap"]

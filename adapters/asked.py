"""A question on a thread of its own, so that who asks can stop waiting for the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Asked[T](threading.Thread):
    """A question that has been put, and its answer once it is there.

    Who waits calls `join` with a time and looks whether it `is_alive`. One that is given up goes on
    until its own time-outs end it, and keeps no process alive.

    Parameters
    ----------
    ask : callable
        Returns the answer; called at once, on the thread.

    Attributes
    ----------
    answer : object or None
        What was returned.
    error : Exception or None
        What was raised instead.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        super().__init__(name="asked", daemon=True)
        self.answer: T | None = None
        self.error: Exception | None = None
        self._ask = ask
        self.start()

    def run(self) -> None:
        """Ask."""
        try:
            self.answer = self._ask()
        except Exception as error:  # for whoever waits
            self.error = error

"""Callbacks that cannot fail in silence: the engine logs an exception and goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Protocol


class KeepsErrors(Protocol):
    """Something that takes note of errors."""

    def error(self, text: str) -> None:
        """Take note of an error's text."""


class HasRecorder(Protocol):
    """A component that reports to a recorder."""

    @property
    def recorder(self) -> KeepsErrors:
        """Where errors go."""


def guarded[Self_: HasRecorder, **P, R](
    callback: Callable[Concatenate[Self_, P], R],
) -> Callable[Concatenate[Self_, P], R]:
    """Wrap a callback: an exception is noted in the recorder, then raised as before.

    The end of the run finds the note and fails; the engine alone would end as if all were well.
    """

    @wraps(callback)
    def call(self: Self_, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            # Unpacking an empty mapping is not free, and the engine passes no keywords.
            if not keywords:
                return callback(self, *arguments)  # type: ignore[call-arg]
            return callback(self, *arguments, **keywords)
        except Exception as error:
            where = f"{type(self).__name__}.{callback.__name__}"
            self.recorder.error(f"{where}: {type(error).__name__}: {error}")
            raise

    return call


def nothing(event: Any) -> None:
    """Take a clock alert whose only purpose is that time is looked at."""

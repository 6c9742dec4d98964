"""Callbacks that cannot fail in silence: the engine logs an exception and goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Protocol, cast

from catalog.timestamps import NS_PER_DAY

_SELF_AND_ONE = 2
_MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


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
    takes_one: Any = callback

    @wraps(callback)
    def call_with_one(self: Self_, argument: Any, /) -> Any:
        try:
            return takes_one(self, argument)
        except Exception as error:
            _note(self, callback.__name__, error)
            raise

    @wraps(callback)
    def call(self: Self_, /, *arguments: P.args, **keywords: P.kwargs) -> R:
        try:
            return callback(self, *arguments, **keywords)
        except Exception as error:
            _note(self, callback.__name__, error)
            raise

    # Most callbacks take one record or event, millions of times in a run, and packing and
    # unpacking arguments costs more than the call itself.
    return cast("Any", call_with_one) if takes_one.__code__.co_argcount == _SELF_AND_ONE else call


def _note(component: HasRecorder, callback: str, error: Exception) -> None:
    where = f"{type(component).__name__}.{callback}"
    component.recorder.error(f"{where}: {type(error).__name__}: {error}")


def nothing(event: Any) -> None:
    """Take a clock alert whose only purpose is that time is looked at."""


def event_time(event: Any, newest: Callable[[], int] | None) -> int:
    """Return when an event happened, by the time of the data, UTC nanoseconds.

    The engine stamps what it finds out itself, such as an order that nobody answered, by the wall
    clock, which is years off where an exchange plays recorded data.

    Parameters
    ----------
    event : Any
        Of the engine.
    newest : callable, optional
        The time of the data; None where that is the clock's.
    """
    ts: int = event.ts_event
    if newest is None:
        return ts
    now = newest()
    return ts if ts - now < NS_PER_DAY else now


def is_inferred(event: Any) -> bool:
    """Return whether the engine has made a fill up to explain what an order's status says.

    Such a fill has no commission, and an identifier that the exchange never gave: what was really
    traded has to be asked for.
    """
    return bool(event.reconciliation) and _MADE_UP.match(str(event.trade_id)) is not None

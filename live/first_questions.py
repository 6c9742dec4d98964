"""What an engine asks of the outside before its node runs: with patience, and seen to be alive.

A start may take minutes while an exchange is not well. Its supervisor must not take that for an
engine that hangs, nor its end for a failure of the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from adapters.errors import AdapterError, NotFoundError, RefusedError
from catalog.errors import AwayError, LeviBotError
from live.engine_request import EngineRequest
from live.engine_status import EngineCounters, EngineStatus, State
from live.patience import patient
from live.processes import ProcessId
from live.registry import Registry
from live.state_folder import StateFolder
from live.status_thread import StatusThread

if TYPE_CHECKING:
    from live.engine import Teller


class FirstQuestions:
    """Asks for an engine that starts. Each question is a sign of life in the registry.

    Parameters
    ----------
    request : EngineRequest
        Of the engine.
    teller : Teller
        Told each answer that is waited for.
    """

    def __init__(self, request: EngineRequest, teller: Teller) -> None:
        self._teller = teller
        self._published = StatusThread(StateFolder(request.state).registry)
        self._status = _starting(request)
        self.alive()
        self._published.start()

    def ask[T](self, question: Callable[[], T]) -> T:
        """Return the answer to a question, asked until there is one or the patience is over.

        Raises
        ------
        AdapterError
            If there is none; see `live.patience.patient`.
        """
        self.alive()
        return patient(question, self._waits, lives=self.alive)

    def alive(self) -> None:
        """Say that the engine's thread goes on."""
        if self._status is not None:
            self._status = replace(self._status, heartbeat_ns=time.time_ns())
            self._published.offer(self._status)

    def close(self) -> None:
        """Publish no more: from here on the engine speaks, or its failure."""
        self._published.close()

    def _waits(self, why: str) -> None:
        if self._status is not None:
            self._status = replace(self._status, last_error=why)
        self.alive()
        self._teller.event("waiting", why)


@contextmanager
def first_questions(request: EngineRequest, teller: Teller) -> Iterator[FirstQuestions]:
    """Ask the first questions of an engine within.

    Raises
    ------
    AwayError
        Where the outside did not answer, which is no failure of the engine.
    """
    questions = FirstQuestions(request, teller)
    try:
        yield questions
    except (RefusedError, NotFoundError):
        raise
    except AdapterError as error:
        raise AwayError(str(error)) from error
    finally:
        questions.close()


def status_of_start(
    known: EngineStatus | None, request: EngineRequest, state: State, error: str = ""
) -> EngineStatus:
    """Return the status of an engine that does not run yet.

    What it held and was worth when it ran last stays: the limits over all engines count it. What
    it counted does not: that begins anew with each process.

    Parameters
    ----------
    known : EngineStatus or None
        What it said last.
    request : EngineRequest
        What was asked.
    state : str
        See `State`.
    error : str
        Why it does not start.
    """
    own, now = ProcessId.own(), time.time_ns()
    return replace(
        known or EngineStatus(engine=request.name),
        profile=request.profile.name,
        mode=request.mode,
        state=state,
        instruments=request.traded,
        heartbeat_ns=now,
        started_ns=now,
        counters=EngineCounters(),
        blocked="",
        last_error=error,
        pid=own.pid,
        process_start_ns=own.start_ns,
        boot=own.boot,
    )


def _starting(request: EngineRequest) -> EngineStatus | None:
    """Return the first status of an engine; None where what it held cannot be read."""
    path = StateFolder(request.state).registry
    try:
        with closing(Registry(path, busy_timeout_secs=0.5)) as registry:
            return status_of_start(registry.status(request.name), request, "starting")
    except (LeviBotError, OSError):
        return None

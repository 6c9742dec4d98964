"""Threads for the steps of fits, and how those that run are told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from catalog.progress import Progress


class StoppedError(Exception):
    """A step was left because its pool ends: by an interrupt, or by an error elsewhere."""


class StepPool(ThreadPoolExecutor):
    """Threads for the steps of fits.

    On an error, or an interrupt of the thread that waits for them, steps that have not begun never
    do, and those that run end as soon as they tell their progress (see `StepProgress`).
    """

    _ending = False

    @property
    def ending(self) -> bool:
        """Whether no further work is wanted."""
        return self._ending

    def after[Result](
        self,
        earlier: Sequence[Future[Any]],
        step: Callable[[], Result],
        *,
        even_failed: bool = False,
    ) -> Future[Result]:
        """Have a step done once others are: no thread waits meanwhile.

        The result fails with the first of `earlier` that fails, unless the step is to be done
        even then (it will meet the error when it asks for their results).
        """
        outcome: Future[Result] = Future()
        lock, left = threading.Lock(), set(range(len(earlier)))

        def begin() -> None:
            # Once a step has failed, none may be submitted: the pool is locked while it cancels
            # those that wait, which is when we may be called.
            if self._ending:
                outcome.cancel()
            else:
                self.submit(step).add_done_callback(lambda done: _pass_on(done, outcome))

        def note(place: int, done: Future[Any]) -> None:
            with lock:
                left.discard(place)
                last = not left and not outcome.done()
            if not even_failed and (done.cancelled() or done.exception() is not None):
                _pass_on(done, outcome)
            elif last:
                begin()

        for place, future in enumerate(earlier):
            future.add_done_callback(partial(note, place))
        return outcome

    def __exit__(self, *error: object) -> None:
        """Wait for what runs; after an error it is told to end."""
        self._ending = error[0] is not None
        self.shutdown(wait=True, cancel_futures=error[0] is not None)


def _pass_on(done: Future[Any], outcome: Future[Any]) -> None:
    """Let one future end as another did, unless it has ended already."""
    try:
        if done.cancelled():
            outcome.cancel()
        elif (error := done.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(done.result())
    except InvalidStateError:
        return


@dataclass(frozen=True, slots=True)
class StepProgress:
    """A step's progress under a name of its own; it raises once the pool ends.

    Fits tell their progress after every tree and mini-batch, so that one that would run for an
    hour is left within a second.

    Parameters
    ----------
    progress : Progress
        Told; where it has a `note` (a line of text beside a stage), that, too.
    pool : StepPool
        Of the step.
    before, after : str
        Put before and after the stage's name: fits that run beside one another tell of the same
        stages.
    """

    progress: Progress
    pool: StepPool
    before: str = ""
    after: str = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report, or end the step.

        Raises
        ------
        StoppedError
            If the pool is ending.
        """
        if self.pool.ending:
            raise StoppedError(f"{self._named(stage)} was left at {done} of {total}")
        self.progress(self._named(stage), done, total)

    def note(self, stage: str, text: str) -> None:
        """Show how a stage goes, such as its loss, where somebody looks."""
        shown = getattr(self.progress, "note", None)
        if shown is not None:
            shown(self._named(stage), text)

    def _named(self, stage: str) -> str:
        return f"{self.before}{stage}{self.after}"

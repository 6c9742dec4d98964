"""Steps beside one another: what fails ends the rest, and so does an interrupt."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import Future
from itertools import count

import pytest

from catalog.progress import no_progress
from research.step_pool import StepPool, StepProgress, StoppedError


class Told:
    """A progress that remembers all that it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.notes: list[tuple[str, str]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append((stage, done, total))

    def note(self, stage: str, text: str) -> None:
        self.notes.append((stage, text))


def endless(pool: StepPool, began: threading.Event) -> None:
    """Work that tells its progress and never ends by itself."""
    progress = StepProgress(no_progress, pool)
    for done in count():
        progress("fit", done, done + 1)
        began.set()
        time.sleep(0.005)


def test_stages_have_the_step_s_name_and_notes_pass() -> None:
    told = Told()
    with StepPool(1) as pool:
        progress = StepProgress(told, pool, "fold 2: ", " (whole span)")
        progress("fit lstm", 3, 8)
        progress.note("fit lstm", "loss 0.69")
        StepProgress(no_progress, pool).note("fit lstm", "nobody looks")
    assert told.calls == [("fold 2: fit lstm (whole span)", 3, 8)]
    assert told.notes == [("fold 2: fit lstm (whole span)", "loss 0.69")]


def test_a_failure_ends_what_runs_beside_it() -> None:
    began, started = threading.Event(), time.monotonic()

    def fail() -> None:
        began.wait()
        raise ZeroDivisionError("planted")

    left: list[Future[None]] = []

    def work() -> None:
        with StepPool(2) as pool:
            left.append(pool.submit(endless, pool, began))
            pool.submit(fail).result()

    with pytest.raises(ZeroDivisionError, match="planted"):
        work()
    assert time.monotonic() - started < 5.0
    with pytest.raises(StoppedError, match=r"fit was left at \d+ of \d+"):
        left[0].result()


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_what_runs() -> None:
    began = threading.Event()
    main = threading.main_thread().ident
    assert main == threading.get_ident()

    def interrupt() -> None:
        began.wait()
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    started = time.monotonic()
    left: list[Future[None]] = []

    def work() -> None:
        with StepPool(1) as pool:
            left.extend(pool.submit(endless, pool, began) for _ in range(2))
            threading.Thread(target=interrupt).start()
            left[0].result()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - started < 5.0
    assert isinstance(left[0].exception(), StoppedError)
    assert left[1].cancelled()


def test_the_end_of_a_pool_that_nothing_ails_ends_nothing() -> None:
    told = Told()
    with StepPool(1) as pool:
        progress = StepProgress(told, pool)
        pool.submit(lambda: [time.sleep(0.05), progress("fit", 1, 1)])
    assert told.calls == [("fit", 1, 1)]

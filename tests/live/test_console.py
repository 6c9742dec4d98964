"""Bars of work: one for each stage, told from many threads, with a line of text behind."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from live import console
from live.console import ProgressBars, progress_bars


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person would see."""
    text = io.StringIO()
    shown = Console(file=text, force_terminal=True, width=160, highlight=False)
    monkeypatch.setattr(console, "notes", shown)
    return text


def test_a_stage_has_a_bar_and_a_note_behind_it(screen: io.StringIO) -> None:
    with progress_bars() as progress:
        progress("fold 1: fit lstm", 250, 8000)
        progress.note("fold 1: fit lstm", "loss 0.6931, validation 0.6920 [best]")
        progress("fold 2: fit lstm", 500, 8000)
        progress("folds", 0, 6)
    found = screen.getvalue()
    for wanted in ("fold 1: fit lstm", "fold 2: fit lstm", "250/8000", "500/8000", "0/6"):
        assert wanted in found
    assert "loss 0.6931, validation 0.6920 [best]" in found


def test_a_fold_s_step_goes_when_it_is_done_and_a_stage_stays(screen: io.StringIO) -> None:
    with progress_bars() as progress:
        progress("features", 0, 2)
        progress("fold 1: fit lstm", 1, 2)
        progress("features", 2, 2)
        progress("fold 1: fit lstm", 2, 2)
    end = screen.getvalue()[-600:]
    tasks = {task.description: task for task in progress._bars.tasks}
    assert tasks["features"].visible
    assert not tasks["fold 1: fit lstm"].visible
    assert "2/2" in end


def test_nothing_to_do_has_no_bar(screen: io.StringIO) -> None:
    with progress_bars() as progress:
        progress("news", 0, 0)
    assert progress._bars.tasks == []


def test_threads_that_begin_at_once_have_one_bar_for_each_stage(screen: io.StringIO) -> None:
    with progress_bars() as progress:
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            barrier.wait()
            for done in range(20):
                progress(f"fold {number % 4}: fit lstm", done, 20)
                progress.note(f"fold {number % 4}: fit lstm", f"loss {done}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(progress._bars.tasks) == 4
    assert isinstance(progress, ProgressBars)

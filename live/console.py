"""What a person sees: progress with time left, results, and errors without a traceback."""

from __future__ import annotations

import errno
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Never

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from catalog.errors import DataError, LeviBotError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
_MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)

# Progress and remarks go to standard error, so that `--json` leaves standard output to programs.
notes = Console(stderr=True, highlight=False)
out = Console(highlight=False)


def fail(error: LeviBotError) -> Never:
    """Print a user's mistake in one paragraph and exit with its code."""
    notes.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
    for note in getattr(error, "__notes__", []):
        notes.print(f"  {_escape(note)}", soft_wrap=True)
    raise typer.Exit(error.exit_code)


def tell(remark: str) -> None:
    """Print a remark, one sentence, above the bars."""
    notes.print(remark, markup=False, soft_wrap=True)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user can put right into a message and an exit code; let our bugs through."""
    try:
        yield
    except LeviBotError as error:
        fail(error)
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        fail(DataError(f"{error.strerror}{where}; make room or choose another folder, then repeat"))
    except KeyboardInterrupt:
        notes.print("interrupted: nothing was written that is not complete")
        raise typer.Exit(INTERRUPTED) from None


class ProgressBars:
    """A `catalog.progress.Progress` with one bar for each stage; fits tell it from their threads.

    Bars of the steps of a fold (``fold 2: fit lstm``) go when they are done: there are dozens.

    Parameters
    ----------
    bars : rich.progress.Progress
        Its tasks have a field `note`.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar."""
        if total == 0:
            return
        shown = done < total or _OF_A_FOLD not in stage
        self._bars.update(self._task(stage), completed=done, total=total, visible=shown)

    def note(self, stage: str, text: str) -> None:
        """Write how a stage goes, such as its loss, behind its bar."""
        self._bars.update(self._task(stage), note=_escape(text))

    def _task(self, stage: str) -> TaskID:
        with self._lock:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(_escape(stage), total=None, note="")
            return self._tasks[stage]


_OF_A_FOLD = ": "


@contextmanager
def progress_bars() -> Iterator[ProgressBars]:
    """Show bars of stages of work on standard error: time elapsed, time left, and how it goes."""
    with Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=notes,
        refresh_per_second=5,
    ) as bars:
        yield ProgressBars(bars)


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """Return a table whose first column is text and whose others are numbers, right-aligned."""
    result = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for position, name in enumerate(columns):
        result.add_column(name, justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        result.add_row(*(_escape(cell) for cell in row))
    return result


def aligned(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a plain table: the first column to the left, the others to the right."""
    table_rows = [header, *rows]
    widths = [max(len(row[column]) for row in table_rows) for column in range(len(header))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table_rows
    ]


def print_json(payload: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(payload, indent=2, allow_nan=False, default=str) + "\n")


def emit(payload: Any, as_json: bool, show: Callable[[], None]) -> None:
    """Print `payload` for programs or call `show` for people."""
    if as_json:
        print_json(payload)
    else:
        show()


def _escape(text: str) -> str:
    return text.replace("[", r"\[")

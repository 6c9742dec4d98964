"""How long work tells its caller how far it is, without knowing who watches."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receive the state of a stage of work."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of `stage` are finished (0 <= done <= total)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report to nobody."""

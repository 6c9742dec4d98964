"""What `levibot trials` shows: the trials, and how often each part of the data was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import ConfigError, DataError
from catalog.timestamps import DAYS_PER_YEAR, format_time
from live.console import aligned
from live.trial_records import ledger_of
from research.trials import Trial, TrialGroup, TrialVerdict, group_trials

_MISSING = "-"


@dataclass(frozen=True, slots=True)
class TrialFilter:
    """Which trials are listed; None does not choose.

    Parameters
    ----------
    profile : str, optional
        Name of their profile.
    start, end : int, optional
        A span ``(start, end]`` that their tested one overlaps, UTC nanoseconds.

    Raises
    ------
    ConfigError
        If the span is empty.
    """

    profile: str | None = None
    start: int | None = None
    end: int | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ConfigError(
                f"--to must be after --from ({format_time(self.start)}), was "
                f"{format_time(self.end)}"
            )

    def takes(self, trial: Trial) -> bool:
        """Return whether a trial is listed."""
        return (
            self.profile in (None, trial.profile)
            and (self.start is None or trial.data.end > self.start)
            and (self.end is None or trial.data.start < self.end)
        )


@dataclass(frozen=True, slots=True)
class TrialList:
    """What is shown.

    Parameters
    ----------
    ledger : Path
        The file.
    trials : tuple of Trial
        Those that were asked for, in the order in which they were recorded.
    groups : tuple of TrialGroup
        The groups that hold any of them, with all their other trials: what was tried under
        another profile was tried on the same data.
    torn_bytes : int
        See `LedgerContent`.
    """

    ledger: Path
    trials: tuple[Trial, ...]
    groups: tuple[TrialGroup, ...]
    torn_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return everything for programs; each group with what is left of its best trial."""
        return {
            "ledger": str(self.ledger),
            "torn_bytes": self.torn_bytes,
            "groups": [_group_dict(group) for group in self.groups],
            "trials": [one.as_dict() for one in self.trials],
        }

    def __str__(self) -> str:
        if not self.trials:
            lines = [f"no such trial is recorded in {self.ledger}"]
        else:
            lines = [
                "Data that were asked together, Sharpe ratios per year:",
                *aligned(_GROUP_COLUMNS, [_group_row(group) for group in self.groups]),
                "",
                *aligned(_TRIAL_COLUMNS, [_trial_row(one) for one in self.trials]),
                "",
                f"ledger: {self.ledger}",
            ]
        if self.torn_bytes:
            lines.append(
                f"a killed process left {self.torn_bytes} bytes of an unfinished line; they count "
                "for nothing and are set aside by the next trial"
            )
        return "\n".join(lines)


def list_trials(catalog: Path, wanted: TrialFilter) -> TrialList:
    """Return a catalog's trials.

    Parameters
    ----------
    catalog : Path
        Its folder.
    wanted : TrialFilter
        Which of them.

    Raises
    ------
    DataError
        If there is no such folder, or the ledger cannot be read.
    IntegrityError
        If the ledger was changed.
    """
    if not catalog.is_dir():
        raise DataError(f"--catalog must be the folder of a catalog, {catalog} does not exist")
    ledger = ledger_of(catalog)
    content = ledger.read()
    trials = tuple(one for one in content.trials if wanted.takes(one))
    shown = {one.id for one in trials}
    groups = tuple(
        group
        for group in group_trials(content.trials)
        if any(one.id in shown for one in group.trials)
    )
    return TrialList(ledger.path, trials, groups, content.torn_bytes)


def best_verdict(group: TrialGroup) -> TrialVerdict | None:
    """Return what is left of a group's best trial; None if no trial has a Sharpe ratio."""
    traded = [one.results for one in group.trials if one.results.sharpe is not None]
    if not traded:
        return None
    return group.count.deflated(max(traded, key=lambda one: one.sharpe or 0.0))


def _group_dict(group: TrialGroup) -> dict[str, Any]:
    verdict = best_verdict(group)
    return {**group.as_dict(), "best_trial": None if verdict is None else verdict.as_dict()}


_GROUP_COLUMNS = [
    *("instruments", "from", "to", "recorded", "different", "traded"),
    *("spread", "best", "best by luck", "deflated"),
]
_TRIAL_COLUMNS = [
    *("recorded", "command", "profile", "from", "to", "days"),
    *("Sharpe", "net return", "skill", "id"),
]


def _group_row(group: TrialGroup) -> list[str]:
    count, verdict = group.count, best_verdict(group)
    return [
        _names(group.instruments),
        format_time(group.start),
        format_time(group.end),
        str(len(group.trials)),
        str(count.count),
        str(count.sharpe_count),
        _annual(count.spread),
        _annual(count.best),
        _annual(None if verdict is None else verdict.deflated.threshold),
        _MISSING if verdict is None else f"{verdict.deflated.value:.3f}",
    ]


def _trial_row(trial: Trial) -> list[str]:
    found, name = trial.results, str(trial.command["name"])
    return [
        format_time(trial.time // 10**9 * 10**9),
        f"{name} {trial.label}".rstrip(),
        trial.profile,
        format_time(trial.data.start),
        format_time(trial.data.end),
        str(found.days or _MISSING),
        _annual(found.sharpe),
        _MISSING if found.net_return is None else f"{found.net_return:+.4f}",
        _MISSING if found.log_loss_skill is None else f"{found.log_loss_skill:+.5f}",
        trial.id[:12],
    ]


def _annual(sharpe: float | None) -> str:
    return _MISSING if sharpe is None else f"{sharpe * math.sqrt(DAYS_PER_YEAR):.2f}"


def _names(instruments: Sequence[str]) -> str:
    rest = len(instruments) - 1
    return f"{instruments[0]} and {rest} more" if rest else instruments[0]

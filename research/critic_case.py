"""What the critic reads, what it says, and where it draws its lines: see `research.critic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field

from catalog.config import Config
from research.critic_evidence import ParameterSweep, TailGap
from research.estimates import Estimate
from research.performance import DailyEquity
from research.report import estimate_of
from research.shuffled_signal import ShuffledTrades

type Severity = Literal["grave", "serious", "minor"]
SEVERITIES: tuple[Severity, ...] = ("grave", "serious", "minor")


class Criticism(NamedTuple):
    """One objection.

    Parameters
    ----------
    key : str
        Which one, such as ``few_trades``: stable, for programs.
    severity : {"grave", "serious", "minor"}
        See `research.critic`.
    text : str
        A sentence for people, with the numbers in it.
    evidence : dict of str to float
        The numbers; None where one is not finite.
    """

    key: str
    severity: Severity
    text: str
    evidence: dict[str, float | None]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return self._asdict()


class CriticConfig(Config):
    """Where the critic draws its lines.

    Parameters
    ----------
    few_trades, very_few_trades : int
        Fewer than this is a serious or a grave objection.
    best_days : int
        How many of the best days may not make the whole profit.
    break_even, safe_break_even : float
        Multiples of the costs that the trades should bear; below, serious or minor.
    tail_gap_frac : float
        How far confidence may be off among the most confident tenth.
    auc, fast_auc : float
        An AUC whose interval lies above is taken for a leak; the second up to `fast_minutes` ahead,
        where the last trades at bid and ask foretell each other.
    fast_minutes : float
        See there.
    p : float
        Chance of a false objection where one is a test.
    """

    few_trades: int = Field(default=100, ge=1)
    very_few_trades: int = Field(default=30, ge=1)
    best_days: int = Field(default=5, ge=1)
    break_even: float = Field(default=1.5, ge=1.0)
    safe_break_even: float = Field(default=2.0, ge=1.0)
    tail_gap_frac: float = Field(default=0.02, ge=0.0, le=0.5)
    auc: float = Field(default=0.60, gt=0.5, lt=1.0)
    fast_auc: float = Field(default=0.65, gt=0.5, lt=1.0)
    fast_minutes: float = Field(default=5.0, ge=0.0)
    p: float = Field(default=0.05, gt=0.0, lt=1.0)


@dataclass(frozen=True, slots=True)
class Case:
    """What the critic reads.

    Parameters
    ----------
    metrics : mapping
        As metrics.json: prediction, folds, references, provenance; trading and stress where
        predictions were traded; trials (count, dsr) where they were counted.
    horizon_ns : int
        How far ahead the predictions look.
    tail : TailGap, optional
        Of the most confident tenth (`research.critic_evidence.tail_gap`).
    daily : DailyEquity, optional
        Of the strategy; None where nothing was replayed.
    benchmarks : mapping of str to DailyEquity
        What it is held against, by name.
    shuffled : ShuffledTrades, optional
        Its trades at other times.
    sweeps : tuple of ParameterSweep
        Results of the settings beside those that were used.
    """

    metrics: Mapping[str, Any]
    horizon_ns: int
    tail: TailGap | None = None
    daily: DailyEquity | None = None
    benchmarks: Mapping[str, DailyEquity] = field(default_factory=dict)
    shuffled: ShuffledTrades | None = None
    sweeps: tuple[ParameterSweep, ...] = ()

    def prediction(self, name: str) -> Estimate:
        """Return a pooled metric of the predictions."""
        return estimate_of(self.metrics["prediction"][name])

    def trading(self, name: str) -> Estimate:
        """Return a metric of the replay."""
        return estimate_of(self.metrics["trading"][name])

    @property
    def earns(self) -> bool:
        """Whether something was traded, and more than lost after costs."""
        return self.daily is not None and self.trading("net_return").value > 0.0

    @property
    def trades(self) -> int:
        """How many positions were taken."""
        return int(self.trading("trades").value)

"""One run as a tearsheet shows it: what is given, and everything computed from it, once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError
from research.estimates import Estimate
from research.market_view import MarketView
from research.metrics import BootstrapConfig, ReliabilityCurve, accuracy_by_coverage
from research.performance import OutcomeFrames, TradingSpan, Waterfall, cost_waterfall
from research.report import Curve, FoldMark, GroupRow, curve_of, estimate_of
from research.sheet_numbers import (
    SHARES,
    Activity,
    ExpertShare,
    Luck,
    attribution,
    entries,
    expert_shares,
    gross_curve,
    shuffled_levels,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class TearsheetData:
    """Everything that is given of a run.

    Parameters
    ----------
    title : str
        Name of the run.
    metrics : mapping
        As in metrics.json: prediction, trading (absent when nothing was replayed), folds (each
        with prediction and trading), provenance, seconds, peak_memory_mb.
    predictions : DataFrame
        prob_up (and label) of every out-of-sample row.
    reliability : ReliabilityCurve
        Of these predictions.
    start, end : int
        The tested span ``(start, end]``, UTC nanoseconds.
    folds : tuple of FoldMark
        Tested spans, in the order of ``metrics["folds"]``; empty if there are none.
    frames : OutcomeFrames, optional
        What the replay left behind; None when nothing was replayed.
    starting_balance : float
        Equity before the replay, USDT.
    benchmarks : mapping of str to DataFrame
        ts_init and equity of what the strategy is held against, by name, such as
        ``{"buy and hold": buy_and_hold(...)}``; each starts with `starting_balance`.
    references : mapping of str to mapping of str to Estimate
        Prediction metrics of simpler predictors, by name.
    settings : mapping of str to str
        What the replay assumed (fees, latency, slippage, thresholds), in words, for the reader.
    view : MarketView, optional
        What is shown of the market; None where the run did not keep it.
    validation : mapping, optional
        As validation.json (`research.sheet_numbers.Luck.of`); None where there is none.
    bootstrap : BootstrapConfig
        How intervals are made that are not in the metrics.
    """

    title: str
    metrics: Mapping[str, Any]
    predictions: pd.DataFrame
    reliability: ReliabilityCurve
    start: int
    end: int
    folds: tuple[FoldMark, ...] = ()
    frames: OutcomeFrames | None = None
    starting_balance: float = math.nan
    benchmarks: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    references: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    view: MarketView | None = None
    validation: Mapping[str, Any] | None = None
    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)

    def check(self) -> None:
        """Refuse metrics that lack what the page needs, or that are of other folds.

        Raises
        ------
        DataError
            If so.
        """
        wanted = ["prediction", "folds", "provenance", "seconds", "peak_memory_mb"]
        if self.frames is not None:
            wanted.append("trading")
        missing = [key for key in wanted if key not in self.metrics]
        if missing:
            raise DataError(f"metrics must have the keys {missing}, had {sorted(self.metrics)}")
        if len(self.folds) != len(self.metrics["folds"]):
            raise DataError(
                f"folds must be those of the metrics, were {len(self.folds)} against "
                f"{len(self.metrics['folds'])}"
            )


@dataclass(frozen=True, slots=True)
class TradedSheet:
    """What the replay of a run shows.

    Parameters
    ----------
    span : TradingSpan
        The tested part.
    waterfall : Waterfall
        From gross to net.
    net, gross : Curve
        Equity after and before costs.
    held : tuple of Curve
        Benchmarks.
    band : tuple, optional
        Times and levels of the shuffled signal (`research.sheet_numbers.shuffled_levels`).
    activity : Activity
        Exposure and turnover by day.
    entered : DataFrame
        Positions beside what was known at their entries.
    groups : mapping of str to tuple of GroupRow
        Results of trades by what they have in common.
    experts : tuple of ExpertShare
        Results by expert.
    """

    span: TradingSpan
    waterfall: Waterfall
    net: Curve
    gross: Curve
    held: tuple[Curve, ...]
    band: tuple[Int64Array, Float64Array] | None
    activity: Activity
    entered: pd.DataFrame
    groups: Mapping[str, tuple[GroupRow, ...]]
    experts: tuple[ExpertShare, ...]

    @classmethod
    def of(cls, data: TearsheetData, frames: OutcomeFrames) -> Self:
        """Compute all of it."""
        span = TradingSpan.cut(
            frames, start=data.start, end=data.end, starting_balance=data.starting_balance
        )
        balance = float(span.daily.equity[0])
        net, *held = (
            curve_of(
                name,
                frame,
                start=data.start,
                end=data.end,
                starting_balance=data.starting_balance,
            )
            for name, frame in {"strategy": frames.equity, **data.benchmarks}.items()
        )
        band = None if data.view is None else data.view.shuffled
        entered = entries(span.frames.positions, data.predictions)
        return cls(
            span=span,
            waterfall=cost_waterfall(span),
            net=net,
            gross=gross_curve(net, frames, balance),
            held=tuple(held),
            band=None if band is None else shuffled_levels(band, span, frames),
            activity=Activity.of(span),
            entered=entered,
            groups=attribution(entered),
            experts=expert_shares(entered),
        )


@dataclass(frozen=True, slots=True)
class RunSheet:
    """One run, computed.

    Parameters
    ----------
    name : str
        By which it is called on the page.
    data : TearsheetData
        What was given.
    trading : TradedSheet, optional
        None where nothing was replayed.
    coverage : tuple of Estimate
        Accuracy over the most confident `research.sheet_numbers.SHARES` of the rows.
    luck : Luck
        How much of it may be luck.
    """

    name: str
    data: TearsheetData
    trading: TradedSheet | None
    coverage: tuple[Estimate, ...]
    luck: Luck

    @classmethod
    def of(cls, data: TearsheetData, name: str | None = None) -> Self:
        """Compute everything that is shown of a run.

        Raises
        ------
        DataError
            If a key of metrics.json is missing, or a frame has no rows in the span.
        """
        data.check()
        band = None if data.view is None else data.view.shuffled
        return cls(
            name=name or data.title,
            data=data,
            trading=None if data.frames is None else TradedSheet.of(data, data.frames),
            coverage=accuracy_by_coverage(data.predictions, SHARES, config=data.bootstrap),
            luck=Luck.of(data.metrics, data.validation, band),
        )

    @property
    def probabilities(self) -> Float64Array:
        """Every prediction, (n_rows,)."""
        return self.data.predictions["prob_up"].to_numpy(dtype=np.float64)

    def by_fold(self, part: str, key: str) -> dict[str, Estimate]:
        """Return a metric of each fold and of all, by name; nothing where it was not measured."""
        folds = self.data.metrics["folds"]
        if not folds or key not in self.data.metrics.get(part, ()) or part not in folds[0]:
            return {}
        found = {
            mark.name: estimate_of(fold[part][key])
            for mark, fold in zip(self.data.folds, folds, strict=True)
        }
        return found | {"pooled": estimate_of(self.data.metrics[part][key])}


def named_sheets(runs: Sequence[TearsheetData]) -> tuple[RunSheet, ...]:
    """Compute several runs, each called by its title, numbered where two have the same."""
    titles = [one.title for one in runs]
    names = [
        f"{title} ({titles[: at + 1].count(title)})" if titles.count(title) > 1 else title
        for at, title in enumerate(titles)
    ]
    return tuple(RunSheet.of(data, name) for data, name in zip(runs, names, strict=True))

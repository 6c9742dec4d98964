"""The two proofs that a user can ask for: nothing looks ahead, and live decides as the backtest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from catalog.arrays import BarArrays, SeriesArrays
from catalog.errors import AuditFailedError, ConfigError
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, format_time
from live.live_replay import run_live_replay
from live.parity import ParityReport, compare
from live.pipeline import Market, load_market
from live.profile import Profile
from live.served import tolerance_of
from research.features import feature_table
from research.fitted import FittedModel
from research.lookahead import (
    Columns,
    Violation,
    audit_features,
    audit_function,
    audit_labels,
    choose_cuts,
)
from research.models.registry import EXPERT_KINDS
from research.panel import Panel
from research.predictions import EXPERT_PREFIX
from research.predictor import BundlePredictor, PrecomputedPredictions
from research.settings import WalkForwardConfig, predictor_spec
from research.training import train_until
from research.walkforward import evaluate, predict_forward
from strategies.backtest import Replay, ReplayInputs, run_backtest
from strategies.outcome import RunFrames
from strategies.policy import REASONS
from strategies.reconciliation import Reconciliation
from strategies.replay_data import check_inputs

if TYPE_CHECKING:
    import pandas as pd
    from nautilus_trader.backtest import BacktestEngine

QUARTER_NS = 92 * NS_PER_DAY
SETTLEMENT_NS = 8 * NS_PER_HOUR
BARS_AFTER_CUT = 4
"""How far past a cut decisions are replayed: a made-up market soon ruins any account."""
_FOLD_STAGE = "predictions, decisions"


@dataclass(frozen=True, slots=True)
class LookaheadReport:
    """What a look-ahead audit compared, and what moved.

    Parameters
    ----------
    audited : dict of str to int
        Columns by part: features, label, predictions and decisions.
    cuts : dict of str to int
        Times at which the future was changed, by part.
    violations : list of Violation
        Whatever moved although only its future did.
    """

    audited: dict[str, int] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "passed": not self.violations,
            "audited": self.audited,
            "cuts": self.cuts,
            "violations": [str(violation) for violation in self.violations],
        }

    def __str__(self) -> str:
        lines = [
            f"{name:24} {count:3} columns at {self.cuts[name]:3} cuts"
            for name, count in self.audited.items()
        ]
        lines += [str(violation) for violation in self.violations]
        end = "nothing looks ahead" if not self.violations else "LOOK-AHEAD FOUND"
        return "\n".join([*lines, end])


def audit_lookahead(
    profile: Profile, catalog: Path, *, cuts: int, progress: Progress = no_progress
) -> LookaheadReport:
    """Change everything after t, at several t, for all that a profile computes.

    Features and labels are swept over the whole span. Predictions and decisions are those of the
    first fold (fit, calibration, prediction, replay), computed anew for every changed future.
    """
    if cuts < 1:
        raise ConfigError(f"--cuts must be at least 1, was {cuts}")
    market = load_market(profile, catalog)
    panel = market.panel
    warmup = _warmup_end(panel, profile)
    times = choose_cuts(panel, after=warmup, count=cuts)
    report = LookaheadReport()
    report.violations.extend(
        audit_features(panel, profile.features, times, progress=_named(progress, "features"))
    )
    report.audited["features"] = len(feature_table(profile.features))
    report.cuts["features"] = len(times)
    report.violations.extend(
        audit_labels(panel, profile.label, times, progress=_named(progress, "label"))
    )
    report.audited["label"] = 3
    report.cuts["label"] = len(times)
    first_fold = _FirstFold.of(profile, market)
    fold_cuts = first_fold.cuts(cuts)
    for number, cut in enumerate(fold_cuts):
        progress(_FOLD_STAGE, number, len(fold_cuts))
        compute = replace(first_fold, replay_end=cut + BARS_AFTER_CUT * panel.interval_ns)
        report.violations.extend(audit_function(compute, first_fold.block, [cut]))
    progress(_FOLD_STAGE, len(fold_cuts), len(fold_cuts))
    report.audited[_FOLD_STAGE] = len(first_fold.predicted) + len(_DECISION_COLUMNS)
    report.cuts[_FOLD_STAGE] = len(fold_cuts)
    return report


def audit_parity(
    profile: Profile,
    catalog: Path,
    *,
    span: tuple[int | None, int | None] = (None, None),
    progress: Progress = no_progress,
) -> ParityReport:
    """Run the profile's strategy as backtest and in a live node, and compare every number.

    One model is trained on what was known at the span's start. The backtest trades its batch
    predictions; the live node computes features and predictions bar by bar, warm-started. Where
    experts read sequences, probabilities may differ by `SEQUENCE_TOLERANCE`; decisions may not.
    """
    return two_ways(profile, catalog, span=span, progress=progress).report


class TwoWays(NamedTuple):
    """A backtest and a live node over the same bars, and what they were made of."""

    report: ParityReport
    backtest: RunFrames
    model: FittedModel
    inputs: ReplayInputs
    span: tuple[int, int]


def two_ways(
    profile: Profile,
    catalog: Path,
    *,
    span: tuple[int | None, int | None] = (None, None),
    progress: Progress = no_progress,
) -> TwoWays:
    """Run what `audit_parity` compares, and keep it."""
    end = profile.data.end if span[1] is None else span[1]
    start = end - QUARTER_NS if span[0] is None else span[0]
    if not profile.data.start < start < end <= profile.data.end:
        raise ConfigError(
            f"the audited span must lie within the profile's data "
            f"({format_time(profile.data.start)} to {format_time(profile.data.end)}), was "
            f"{format_time(start)} to {format_time(end)}; give --from and --to"
        )
    market = load_market(profile, catalog, span=(profile.data.start, end))
    config = profile.walk_forward_config()
    model = train_until(market.panel, config, start, progress=progress)
    result = evaluate(market.panel, model, start, end, progress=progress)
    inputs = market.replay_inputs(start, end, len(result.predictions))
    predictions = PrecomputedPredictions.from_frame(result.predictions, result.spec)
    backtest = run_backtest(
        inputs, predictions, profile.strategy, profile.execution, progress=progress
    )

    def online() -> BundlePredictor:
        predictor = BundlePredictor(model, breaker=profile.breaker)
        market.warm_up(predictor, start, progress=progress)
        return predictor

    live = run_live_replay(
        inputs,
        online,
        profile.strategy,
        profile.execution,
        progress=_named(progress, "live node"),
    )
    report = compare(backtest, live, tolerance=tolerance_of(model))
    if not report.compared["fills"]:
        raise AuditFailedError(
            f"parity must be shown on a span in which something is traded; from "
            f"{format_time(start)} to {format_time(end)} nothing was: choose another span or "
            "lower strategy.entry_threshold"
        )
    return TwoWays(report, backtest, model, inputs, (start, end))


_DECISION_COLUMNS = ("side", "target_weight", "reason", "quantity", "equity")
_FUSED_COLUMNS = (
    *("raw_prob", "prob_up", "mu", "sigma", "epistemic"),
    *("volatility", "prob_low", "prob_high", "entry_threshold"),
)
_ROUNDING = 1e-6
"""By how much a sequence expert's probability may move with the number of rows asked together."""


@dataclass(frozen=True, slots=True)
class _FirstFold:
    """From a panel to the predictions and decisions of its first fold: what the audit repeats.

    Parameters
    ----------
    profile : Profile
        What is audited.
    instruments : tuple
        The engine's definitions.
    block : Panel
        The true data up to the end of the first tested block.
    truth : DataFrame
        The predictions that the true data give, computed once.
    replay_end : int
        Decisions are replayed to here, UTC nanoseconds; predictions are made to the block's end.
    """

    profile: Profile
    instruments: tuple[Any, ...]
    block: Panel
    truth: pd.DataFrame
    replay_end: int

    @classmethod
    def of(cls, profile: Profile, market: Market) -> _FirstFold:
        """Cut the data off at the end of the first fold and compute what is true."""
        validation = profile.validation
        start = validation.test_start
        end = profile.data.end if validation.test_end is None else validation.test_end
        block_end = start + (end - start) // validation.n_folds
        block = market.panel.truncated(block_end)
        truth = predict_forward(block, _one_fold(profile))
        return cls(profile, market.instruments, block, truth, block_end)

    @property
    def config(self) -> WalkForwardConfig:
        """Return the research part of the profile for one tested block."""
        return _one_fold(self.profile)

    def settled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return predictions with the true value where only rounding tells them apart.

        A changed future has another number of rows, and a sequence expert adds its 32-bit numbers
        up in another order then. Experts of single rows must keep their bits.
        """
        chosen = self.config.experts.chosen()
        deep = [f"{EXPERT_PREFIX}{name}" for name in chosen if EXPERT_KINDS[name].deep]
        if not deep:
            return frame
        keys, rounded = ["ts_init", "instrument_id"], [*_FUSED_COLUMNS, *deep]
        truth = frame[keys].merge(self.truth[[*keys, *rounded]], on=keys, how="left")
        columns = {}
        for name in rounded:
            found, true = frame[name].to_numpy(), truth[name].to_numpy()
            limit = _ROUNDING * (0.01 if name in ("mu", "sigma") else 1.0)
            columns[name] = np.where(np.abs(found - true) <= limit, true, found)
        changed = frame.assign(**columns)
        changed.attrs = frame.attrs
        return changed

    @property
    def predicted(self) -> list[str]:
        """The columns of a prediction: fused, and what each expert said, whatever its weight."""
        experts = [f"{EXPERT_PREFIX}{name}" for name in self.config.experts.chosen()]
        return [*_FUSED_COLUMNS, *experts]

    def cuts(self, count: int) -> list[int]:
        """Return times at which something is at stake.

        One bar into the tested block, where the labels of rows that must be purged still lie in
        the future; and bars at whose close an order is decided, spread over the block.
        """
        border = self.profile.validation.test_start + self.block.interval_ns
        decisions = self.replay(self.block, self.truth).decisions
        ordered = np.unique(decisions["ts_init"][decisions["quantity"] != 0.0])
        last = int(self.block.bars[0].ts_init[-1]) - self.block.interval_ns
        ordered = ordered[(ordered > border) & (ordered < last)]
        if not len(ordered):
            raise AuditFailedError(
                f"the audited fold must decide an order, so that decisions can be audited; "
                f"profile {self.profile.name} decides none until {format_time(last)}: lower "
                "strategy.entry_threshold"
            )
        places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).astype(np.int64)
        return [border, *ordered[np.unique(places)].tolist()]

    def __call__(self, panel: Panel) -> Columns:
        """Fit, predict and replay on a panel with whatever future."""
        known = panel is self.block
        frame = self.truth if known else self.settled(predict_forward(panel, self.config))
        outcome = self.replay(panel, frame)
        keys = ["ts_init", "instrument_id"]
        merged = frame[[*keys, *self.predicted]].merge(
            outcome.decisions[[*keys, "side", "target_weight", "reason", "quantity"]],
            on=keys,
            how="left",
        )
        merged = merged.merge(outcome.equity[["ts_init", "equity"]], on="ts_init", how="left")
        codes = {name: code for code, name in enumerate(panel.instruments())}
        reasons = {reason: code for code, reason in enumerate(REASONS)}
        merged["reason"] = merged["reason"].astype(object).map(reasons)
        return Columns(
            merged["ts_init"].to_numpy(dtype=np.int64),
            np.asarray(merged["instrument_id"].astype(object).map(codes), dtype=np.int64),
            merged[[*self.predicted, *_DECISION_COLUMNS]].to_numpy(dtype=np.float64),
            (*self.predicted, *_DECISION_COLUMNS),
        )

    def replay(self, panel: Panel, frame: pd.DataFrame) -> RunFrames:
        """Replay the predictions of a panel up to `replay_end`."""
        start = self.profile.validation.test_start
        last = min(int(bars.ts_init[-1]) for bars in panel.bars if len(bars))
        end = min(self.replay_end, last)
        inputs = ReplayInputs(
            instruments=self.instruments,
            bars=tuple(
                _on_tick(bars.between(start, end), instrument)
                for bars, instrument in zip(panel.bars, self.instruments, strict=True)
            ),
            funding={name: _settled_until(series, end) for name, series in panel.funding.items()},
        )
        spec = predictor_spec(self.config, panel.instruments(), panel.interval_ns)
        predictions = PrecomputedPredictions.from_frame(frame, spec)
        arguments = (inputs, predictions, self.profile.strategy, self.profile.execution)
        check_inputs(*arguments)
        return _MadeUpReplay(*arguments).run(no_progress)


class _MadeUpReplay(Replay):
    """A replay whose end is made up: wild prices ruin the account, and orders are then denied.

    What was decided until then is all that is looked at; any other fault still fails the run.
    """

    def reconcile(self, engine: BacktestEngine, records: int) -> Reconciliation:
        """Compare as ever, but let denied orders and what lacks their protection pass."""
        found = super().reconcile(engine, records)
        return replace(found, denied=(), unprotected=(), mistaken=())


def _one_fold(profile: Profile) -> WalkForwardConfig:
    """Return the research part of a profile for one tested block that ends with the data."""
    return profile.walk_forward_config().model_copy(
        update={
            "validation": profile.validation.model_copy(update={"n_folds": 1, "test_end": None}),
        }
    )


def _warmup_end(panel: Panel, profile: Profile) -> int:
    """Return the first time at which every instrument is past its warm-up, UTC nanoseconds."""
    bars = max(feature.warmup_bars for feature in feature_table(profile.features))
    first = max(int(one.ts_init[0]) for one in panel.bars)
    return first + bars * panel.interval_ns


def _named(progress: Progress, name: str) -> Progress:
    """Show the progress of a part under a name of its own."""

    def report(stage: str, done: int, total: int) -> None:
        progress(name, done, total)

    return report


def _on_tick(bars: BarArrays, instrument: Any) -> BarArrays:
    """Round made-up prices to what the instrument can have; true ones stay as they are."""
    price, size = instrument.price_precision, instrument.size_precision
    floor = 10.0**-price
    return replace(
        bars,
        open=np.maximum(np.round(bars.open, price), floor),
        high=np.maximum(np.round(bars.high, price), floor),
        low=np.maximum(np.round(bars.low, price), floor),
        close=np.maximum(np.round(bars.close, price), floor),
        volume=np.round(bars.volume, size),
    )


def _settled_until(series: SeriesArrays, end: int) -> SeriesArrays:
    """Go on with settlements of zero where a changed future has none: the replay demands them."""
    last = int(series.ts_init[-1])
    if last >= end:
        return series
    # numpy counts the steps of a range in floating point, which is too coarse for nanoseconds.
    later = last + SETTLEMENT_NS * np.arange(1, (end - last) // SETTLEMENT_NS + 1, dtype=np.int64)
    return replace(
        series,
        ts_event=np.concatenate([series.ts_event, later]),
        ts_init=np.concatenate([series.ts_init, later]),
        value=np.concatenate([series.value, np.zeros(len(later))]),
    )

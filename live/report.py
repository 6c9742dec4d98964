"""From a run's predictions and frames to `metrics.json`, the tearsheet and a summary to print."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from catalog.arrays import BarArrays, SeriesArrays
from live.console import aligned
from live.critique import benchmarks_of, critic_lines, criticisms
from live.guard_summary import guard_lines, guard_metrics
from live.profile import Profile, dump_profile
from live.runs import (
    MARKET_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    PROFILE_FILE,
    RUN_FILE,
    TABLES,
    TEARSHEET_FILE,
    Stopwatch,
    code_version,
    file_hashes,
    finite,
    peak_memory_mb,
    write_json,
    write_tables,
)
from live.served import Served, breaker_line
from live.tearsheets import sheet_of_run, view_of_run
from live.trial_records import verdict_lines
from research.cost_stress import cost_stress
from research.degraded import DegradedShare
from research.estimates import Estimate
from research.metrics import (
    BootstrapConfig,
    ReliabilityCurve,
    prediction_metrics,
    reliability_curve,
)
from research.panel import Panel
from research.performance import trading_metrics
from research.predictor import write_predictions
from research.references import REFERENCES
from research.tearsheet import write_tearsheet
from research.walkforward import WalkForwardResult
from strategies.execution_quality import execution_lines, execution_quality
from strategies.outcome import BacktestOutcome

if TYPE_CHECKING:
    import pandas as pd

type Metrics = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FoldLine:
    """One fold of a report; training facts are None for predictions that were read from a file."""

    index: int
    test_start: int
    test_end: int
    metrics: Mapping[str, Estimate]
    train_start: int | None = None
    train_end: int | None = None
    n_train: int | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """Out-of-sample predictions and what they are worth, however they were come by.

    Parameters
    ----------
    frame : DataFrame
        As `WalkForwardResult.predictions`.
    folds : tuple of FoldLine
        In time order.
    metrics : mapping of Estimate
        Pooled.
    references : mapping of mapping of Estimate
        The same for simple references.
    reliability : ReliabilityCurve
        Pooled.
    data_hash : str
        Of the data that was read.
    synthetic : bool
        Whether any of it was made up.
    experts : mapping of mapping of Estimate
        The same for each expert alone; empty if there is one, or for predictions from a file.
    step_seconds : mapping of float
        Seconds of one core by step of the fits; empty for predictions from a file.
    fits : sequence of dict
        How each fold was fitted and why its parts were chosen (`research.fit_reports`); empty for
        predictions from a file.
    served : Served, optional
        How a bundle fared that predicted bar by bar; None where predictions were made in batch.
    """

    frame: pd.DataFrame
    folds: tuple[FoldLine, ...]
    metrics: Mapping[str, Estimate]
    references: Mapping[str, Mapping[str, Estimate]]
    reliability: ReliabilityCurve
    data_hash: str
    synthetic: bool
    experts: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    fits: Sequence[Mapping[str, Any]] = ()
    served: Served | None = None

    @classmethod
    def of_result(cls, result: WalkForwardResult, reports: Mapping[str, Any] | None = None) -> Self:
        """Take the predictions of a walk-forward, or of a bundle and how its fit went."""
        folds = tuple(
            FoldLine(
                fold.index,
                fold.test_start,
                fold.test_end,
                fold.metrics,
                fold.train_start,
                fold.train_end,
                fold.n_train,
            )
            for fold in result.folds
        )
        return cls(
            result.predictions,
            folds,
            result.metrics,
            result.references,
            result.reliability,
            result.data_hash,
            result.synthetic,
            result.experts,
            result.step_seconds,
            [{**fold.facts(), **(reports or {})} for fold in result.folds],
        )

    @property
    def cut_short(self) -> dict[str, int]:
        """In how many folds an expert's time budget ended its fit; only where it did."""
        return dict(Counter(name for fit in self.fits for name in fit["cut_short"]))

    @property
    def degraded(self) -> DegradedShare:
        """How many are degraded, and why."""
        return _degraded(self.frame)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, panel: Panel, bootstrap: BootstrapConfig) -> Self:
        """Measure predictions that were read from a file."""
        settings = bootstrap.model_dump()
        folds = []
        for number, part in frame.groupby("fold", sort=True):
            first, last = int(part["ts_init"].min()), int(part["ts_init"].max())
            found = prediction_metrics(part, **settings)
            folds.append(FoldLine(int(str(number)), first - panel.interval_ns, last, found))
        references = {
            name: prediction_metrics(frame, column=column, **settings)
            for name, column in REFERENCES.items()
            if column in frame
        }
        return cls(
            frame,
            tuple(folds),
            prediction_metrics(frame, **settings),
            references,
            reliability_curve(frame, config=bootstrap),
            panel.data_hash,
            panel.synthetic,
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """Everything that a run has computed, before it is written.

    Parameters
    ----------
    profile : Profile
        What was run.
    command : dict
        Name and arguments, enough to run it again.
    predictions : Predictions
        What was predicted and what it is worth.
    outcome : BacktestOutcome
        The replay, reconciled.
    bars, funding
        What was replayed, for buy-and-hold.
    start, end : int
        The replayed span ``(start, end]``, UTC nanoseconds.
    trials : mapping
        How often these data were asked, and what that leaves (`live.trial_records.verdict_of`).
    """

    profile: Profile
    command: dict[str, Any]
    predictions: Predictions
    outcome: BacktestOutcome
    bars: Sequence[BarArrays]
    funding: Mapping[str, SeriesArrays]
    start: int
    end: int
    trials: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What is printed at the end of a run."""

    folder: Path
    metrics: Metrics

    def to_json(self) -> Metrics:
        """Return the content of `metrics.json`, and where the run lies."""
        return {"run": str(self.folder), **self.metrics}

    def __str__(self) -> str:
        provenance = self.metrics["provenance"]
        head = ["SYNTHETIC DATA: these results say nothing about any market", ""]
        lines = head if provenance["synthetic"] else []
        lines += aligned(
            ["", "value", "95 % low", "95 % high"],
            [
                *_rows("prediction", self.metrics["prediction"]),
                *_rows("trading", self.metrics["trading"]),
            ],
        )
        lines += ["", _stress_line(self.metrics["stress"])]
        head, *rows = execution_lines(self.metrics.get("execution", ()))
        lines += ["", *aligned(head, rows)] if rows else []
        lines += _ambiguous_lines(self.metrics.get("ambiguous_bars"))
        lines += guard_lines(self.metrics.get("guard"))
        lines += verdict_lines(self.metrics.get("trials"))
        lines += critic_lines(self.metrics.get("critic"))
        lines += ["", _degraded_line(self.metrics)]
        lines += _served_lines(self.metrics["served"])
        lines += _expert_lines(self.metrics["experts"])
        cut = self.metrics["cut_short"]
        if cut:
            told = ", ".join(f"{name} in {count} folds" for name, count in cut.items())
            lines += ["", f"ended by their time budget, so another run may differ: {told}"]
        lines += _remark_lines(self.metrics["fits"])
        steps = self.metrics["step_seconds"]
        if steps:
            told = ", ".join(f"{name} {spent:.1f}" for name, spent in steps.items())
            lines += ["", f"seconds of one core: {told}"]
        seconds = self.metrics["seconds"]
        lines += [
            "",
            "seconds: " + ", ".join(f"{name} {spent:.1f}" for name, spent in seconds.items()),
            f"peak memory: {self.metrics['peak_memory_mb']:.0f} MB",
            f"run:       {self.folder}",
            f"metrics:   {self.folder / METRICS_FILE}",
            f"tearsheet: {self.folder / TEARSHEET_FILE}",
        ]
        return "\n".join(lines)


def _remark_lines(fits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which experts a fold left out, or could not start warm, and why."""
    lines = []
    for what in ("left out", "started cold"):
        for place, fit in enumerate(fits):
            for name, reason in fit.get(what.replace(" ", "_"), {}).items():
                lines += ["", f"{name} {what} in fold {fit.get('fold', place)}: {reason}"]
    return lines


def _stress_line(stress: Metrics) -> str:
    """Return what the same trades would have returned under other costs, in one line."""
    told = ", ".join(
        f"{row['name']} {row['net_return']['value']:+.3f}"
        for row in stress["rows"]
        if row["net_return"]["value"] is not None
    )
    even = stress["break_even"]
    return f"net return by {told}; break-even costs x {_number(even)}"


def _degraded(frame: pd.DataFrame) -> DegradedShare:
    # Predictions of an older file do not say: they are served as sound, and counted so.
    return DegradedShare.of(frame.get("degraded_reason", [""] * len(frame)))


def _ambiguous_lines(ambiguous: Metrics | None) -> list[str]:
    """Return what the unknown order of events inside bars is worth, where there were such bars."""
    return [ambiguous["text"]] if ambiguous is not None and ambiguous["exits"] else []


def _degraded_line(metrics: Metrics) -> str:
    share = DegradedShare(metrics["degraded_frac"], metrics["degraded_reasons"])
    return f"{share}; they count in all prediction metrics" if share.reasons else str(share)


def _served_lines(served: Metrics | None) -> list[str]:
    """Return how a bundle fared that predicted bar by bar; nothing for predictions in batch."""
    if served is None:
        return []
    share = DegradedShare(served["degraded_frac"], served["degraded_reasons"])
    tripped = {name: state for name, state in served["breakers"].items() if state["trips"]}
    told = [f"expert {breaker_line({'name': name, **state})}" for name, state in tripped.items()]
    return [
        f"served bar by bar: {served['rows']:,} predictions, {share}",
        *(told or ["no expert failed"]),
    ]


def _expert_lines(experts: Mapping[str, Any]) -> list[str]:
    """Return a table of what each expert alone is worth; nothing if there is one.

    Each is judged on the n rows on which it answered.
    """
    if not experts:
        return []
    shown = ("auc", "log_loss_skill", "accuracy_at_10pct", "ece")
    rows = [
        [name, f"{found['n']['value']:,.0f}", *(f"{found[key]['value']:.4f}" for key in shown)]
        for name, found in experts.items()
    ]
    return ["", *aligned(["expert", "n", *shown], rows)]


def write_run(folder: Path, run: RunResult, watch: Stopwatch) -> Metrics:
    """Write all of a run into a folder and return its metrics."""
    with watch.stage("write"):
        (folder / PROFILE_FILE).write_text(dump_profile(run.profile), encoding="utf-8")
        write_predictions(folder / PREDICTIONS_FILE, run.predictions.frame)
        write_tables(folder, {name: getattr(run.outcome, name) for name in TABLES})
    with watch.stage("metrics"):
        trading, folds = _trading(run)
        benchmarks = benchmarks_of(run)
        view = view_of_run(run, benchmarks)
        view.to_frame().to_parquet(folder / MARKET_FILE, index=False)
    metrics: Metrics = {
        "prediction": _as_dicts(run.predictions.metrics),
        "trading": _as_dicts(trading),
        "folds": folds,
        "span": {"start": run.start, "end": run.end},
        "market": view.to_json(),
        "references": {
            name: _as_dicts(found) for name, found in run.predictions.references.items()
        },
        "experts": {name: _as_dicts(found) for name, found in run.predictions.experts.items()},
        **run.predictions.degraded.as_dict(),
        "served": None if run.predictions.served is None else run.predictions.served.to_json(),
        "fits": list(run.predictions.fits),
        "provenance": _provenance(run),
        "stress": _stress(run),
        "execution": [one.to_json() for one in execution_quality(run.outcome, run.bars)],
        "trials": dict(run.trials),
        "ambiguous_bars": run.outcome.reconciliation.ambiguous.to_json(),
        "guard": guard_metrics(
            run.outcome.guard, run.profile.strategy.risk, run.profile.data.instruments
        ),
        "step_seconds": dict(run.predictions.step_seconds),
        "cut_short": dict(run.predictions.cut_short),
        "seconds": watch.total(),
        "peak_memory_mb": peak_memory_mb(),
    }
    with watch.stage("critic"):
        metrics["critic"] = criticisms(run, metrics, benchmarks)
    with watch.stage("tearsheet"):
        write_tearsheet(sheet_of_run(run, finite(metrics), view), folder)
    # The page itself shows the time and memory of all that came before it.
    metrics |= {"seconds": watch.total(), "peak_memory_mb": peak_memory_mb()}
    write_json(folder / METRICS_FILE, metrics)
    record = {
        "schema_version": 1,
        "command": run.command,
        "provenance": metrics["provenance"],
        "reconciliation": run.outcome.reconciliation.to_json(),
        "served": metrics["served"],
        "numbers": numbers_hash(metrics),
        "files": file_hashes(folder),
    }
    write_json(folder / RUN_FILE, record)
    return metrics


def numbers_hash(metrics: Metrics) -> str:
    """Return the SHA-256 of all that must repeat in metrics.json: not time, memory, version."""
    kept = {
        name: metrics[name] for name in ("prediction", "trading", "folds", "references", "experts")
    }
    return hashlib.sha256(json.dumps(finite(kept), sort_keys=True).encode()).hexdigest()


def _trading(run: RunResult) -> tuple[dict[str, Estimate], list[Metrics]]:
    """Return the trading metrics of the whole run, and both kinds of metrics for each fold."""
    balance = run.profile.execution.starting_balance
    pooled = trading_metrics(
        run.outcome,
        start=run.start,
        end=run.end,
        starting_balance=balance,
        **run.profile.bootstrap.model_dump(),
    )
    folds = []
    for fold in run.predictions.folds:
        found = trading_metrics(
            run.outcome,
            start=max(fold.test_start, run.start),
            end=min(fold.test_end, run.end),
            starting_balance=balance,
            **run.profile.bootstrap.model_dump(),
        )
        folds.append(
            {
                "index": fold.index,
                "test_start": fold.test_start,
                "test_end": fold.test_end,
                "train_start": fold.train_start,
                "train_end": fold.train_end,
                "n_train": fold.n_train,
                "prediction": _as_dicts(fold.metrics),
                "trading": _as_dicts(found),
            }
        )
    return pooled, folds


def _stress(run: RunResult) -> Metrics:
    """Return what the same trades would have earned under other costs."""
    found = cost_stress(
        run.outcome,
        run.bars,
        start=run.start,
        end=run.end,
        starting_balance=run.profile.execution.starting_balance,
        **run.profile.bootstrap.model_dump(),
    )
    return found.as_dict()


def _provenance(run: RunResult) -> Metrics:
    return {
        "synthetic": run.predictions.synthetic,
        "data_hash": run.predictions.data_hash,
        "config_hash": run.profile.content_hash(),
        "seed": run.profile.seed,
        "version": code_version(),
    }


def _as_dicts(metrics: Mapping[str, Estimate]) -> Metrics:
    return {name: estimate.as_dict() for name, estimate in metrics.items()}


def _rows(part: str, metrics: Metrics) -> list[list[str]]:
    return [
        [f"{part}.{name}", *(_number(found[end]) for end in ("value", "low", "high"))]
        for name, found in metrics.items()
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "n/a"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if value != int(value) else f"{value:.0f}"

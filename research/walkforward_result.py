"""What a walk-forward returns: predictions, folds, and what they are worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from research.estimates import Estimate
from research.metrics import PREDICTION_METRICS, ReliabilityCurve
from research.predictions import PredictorSpec

if TYPE_CHECKING:
    import pandas as pd

    from research.fitted import FittedModel


@dataclass(frozen=True, slots=True)
class FoldReport:
    """One fold: what it was fitted on and how well it predicted what came after.

    Parameters
    ----------
    index : int
        0 for the first.
    test_start, test_end : int
        Tested span ``(test_start, test_end]`` on ts_init, UTC nanoseconds.
    train_start, train_end : int
        First ts_init and last ts_end of the rows fitted on, UTC nanoseconds.
    n_train, n_test : int
        Rows fitted on; rows predicted (with or without a known label).
    metrics : dict of Estimate
        Keys as in `research.metrics.PREDICTION_METRICS`.
    model : FittedModel, optional
        The fold's model and calibration. None where folds are kept: their predictions and
        reports are then read, not their models.
    fit : dict
        How the fit went, as `research.fit_reports.fit_report`.
    """

    index: int
    test_start: int
    test_end: int
    train_start: int
    train_end: int
    n_train: int
    n_test: int
    metrics: dict[str, Estimate]
    model: FittedModel | None
    fit: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return how the fold went, for JSON: what was tested, and `fit_report`."""
        return {
            "fold": self.index,
            "test_start": self.test_start,
            "test_end": self.test_end,
            "n_test": self.n_test,
            **self.fit,
        }


@dataclass(frozen=True, slots=True)
class WalkForwardResult:
    """Out-of-sample predictions of every fold, and what they are worth.

    Parameters
    ----------
    predictions : DataFrame
        ts_init int64 UTC ns, instrument_id, fold, raw_prob, prob_up, label (1, 0, NaN while
        unknown or for a return of zero), forward_return, and the reference probabilities
        base_prob, last_sign_prob and logistic_prob; sorted by time, then the panel's instruments.
        Stamped with `spec` and the data's hash (see research.predictions).
    folds : tuple of FoldReport
        In time order.
    metrics : dict of Estimate
        Pooled over all folds.
    references : dict of dict of Estimate
        The same metrics for ``base rate``, ``last sign`` and ``logistic regression``.
    reliability : ReliabilityCurve
        Of the calibrated probabilities, pooled.
    spec : PredictorSpec
        The question that the predictions answer.
    data_hash : str
        Of the panel.
    synthetic : bool
        Whether any of the data was made up.
    seconds : dict of float
        Time spent by stage: features, fit, metrics.
    experts : dict of dict of Estimate
        The same metrics for each expert alone, calibrated, by its name; empty if there is one.
    """

    predictions: pd.DataFrame
    folds: tuple[FoldReport, ...]
    metrics: dict[str, Estimate]
    references: dict[str, dict[str, Estimate]]
    reliability: ReliabilityCurve
    spec: PredictorSpec
    data_hash: str
    synthetic: bool
    seconds: dict[str, float]
    experts: dict[str, dict[str, Estimate]] = field(default_factory=dict)

    @property
    def step_seconds(self) -> dict[str, float]:
        """Seconds of one core by step, such as ``fit lstm``, over all folds."""
        spent: dict[str, float] = {}
        for fold in self.folds:
            for step, seconds in fold.fit["seconds"].items():
                spent[step] = spent.get(step, 0.0) + seconds
        return spent

    @property
    def cut_short(self) -> dict[str, int]:
        """In how many folds a time budget ended an expert's fit; experts that it never did, not."""
        return dict(Counter(name for fold in self.folds for name in fold.fit["cut_short"]))

    @property
    def left_out(self) -> dict[str, str]:
        """Experts that a fold left out, and why; keys such as ``sentiment, fold 2``."""
        return self._told("left_out")

    @property
    def started_cold(self) -> dict[str, str]:
        """Experts that were to start warm and did not, and why; keys such as ``lstm, fold 2``."""
        return self._told("started_cold")

    def _told(self, what: str) -> dict[str, str]:
        return {
            f"{name}, fold {fold.index}": reason
            for fold in self.folds
            for name, reason in fold.fit.get(what, {}).items()
        }

    def __str__(self) -> str:
        """Print one aligned table: folds, pooled, references, experts."""
        header = ["", "rows", *PREDICTION_METRICS[1:]]
        lines = [_line(f"fold {fold.index}", fold.metrics) for fold in self.folds]
        lines.append(_line("pooled", self.metrics))
        lines += [_line(name, found) for name, found in self.references.items()]
        lines += [_line(name, found) for name, found in self.experts.items()]
        table = [header, *lines]
        widths = [max(len(line[column]) for line in table) for column in range(len(header))]
        title = "SYNTHETIC DATA\n" if self.synthetic else ""
        return title + "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        )


def _line(name: str, metrics: Mapping[str, Estimate]) -> list[str]:
    values = [str(metrics[key]) for key in PREDICTION_METRICS[1:]]
    return [name, f"{metrics['n'].value:.0f}", *values]

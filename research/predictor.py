"""The only door from strategies into research: predictions, and who makes them.

A predictor takes raw records and computes its own features. `BundlePredictor` computes as it
goes, live and in replay; `PrecomputedPredictions` serves what a walk-forward computed in batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from catalog.arrays import Float64Array, Ohlcv
from research.bundle import load_bundle
from research.features import FeatureStream
from research.predictions import (
    PrecomputedPredictions,
    Prediction,
    Predictor,
    PredictorSpec,
    read_predictions,
    undefined_reason,
    write_predictions,
)
from research.training import FittedModel

__all__ = [
    "BundlePredictor",
    "PrecomputedPredictions",
    "Prediction",
    "Predictor",
    "PredictorSpec",
    "read_predictions",
    "write_predictions",
]


class BundlePredictor:
    """Computes features and predictions bar by bar: the same bits as the batch.

    Parameters
    ----------
    model : FittedModel
        From a bundle or from `train_until`.
    compiled : bool
        Whether features are computed by compiled code; the values are the same.
    """

    def __init__(self, model: FittedModel, *, compiled: bool = True) -> None:
        spec = model.spec
        self._model = model
        self._spec = spec
        self._stream = FeatureStream(
            spec.instruments, spec.interval_ns, model.config.features, compiled=compiled
        )

    @classmethod
    def from_folder(cls, path: Path, *, compiled: bool = True) -> Self:
        """Load a bundle folder, refusing one that is not exactly what was saved.

        Raises
        ------
        DataError, IntegrityError
            As `research.bundle.load_bundle`.
        """
        return cls(load_bundle(path).model, compiled=compiled)

    @property
    def spec(self) -> PredictorSpec:
        """What this predictor predicts and needs."""
        return self._spec

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        """Take a funding rate (a fraction), known since `ts_init`."""
        self._stream.update_funding(instrument_id, rate, ts_init)

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        """Take the bars that closed at `ts_init` and return the predictions made from them.

        An instrument still warming up gets none. One with undefined features (another
        instrument's bar missing, funding unknown) gets one that is marked degraded.
        """
        rows = self._stream.update(ts_init, bars)
        if not rows:
            return []
        names = [name for name in self._spec.instruments if name in rows]
        values = np.stack([rows[name] for name in names])
        probability = self._model.calibration(self._model.expert.predict(values))
        return [
            self._prediction(name, ts_init, float(probability[row]), values[row])
            for row, name in enumerate(names)
        ]

    def _prediction(
        self, name: str, ts_init: int, probability: float, row: Float64Array
    ) -> Prediction:
        reason = undefined_reason(row, self._model.expert.names) if np.isnan(row).any() else ""
        return Prediction(
            name,
            ts_init,
            probability,
            self._spec.horizon_bars,
            self._spec.model_version,
            reason != "",
            reason,
        )

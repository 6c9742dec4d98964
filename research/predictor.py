"""The only door from strategies into research: predictions, and who makes them.

A predictor takes raw records and computes its own features. `BundlePredictor` computes as it
goes, live and in replay; `PrecomputedPredictions` serves what a walk-forward computed in batch.
"""

from __future__ import annotations

from research.predictions import (
    PrecomputedPredictions,
    Prediction,
    Predictor,
    PredictorSpec,
)

__all__ = [
    "PrecomputedPredictions",
    "Prediction",
    "Predictor",
    "PredictorSpec",
]

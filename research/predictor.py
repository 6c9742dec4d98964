"""The only door from strategies into research: predictions, and who makes them.

A predictor takes raw records and computes its own features. `BundlePredictor` computes as it
goes, live and in replay; `PrecomputedPredictions` serves what a walk-forward computed in batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array, Ohlcv
from research import kernel_tools
from research.bundle import load_bundle
from research.circuit_breaker import BreakerConfig, BreakerState, CircuitBreaker
from research.experts import ExpertOutput
from research.features import FeatureStream
from research.fitted import Answers, FittedModel, Member
from research.groups.regime import regime_name
from research.predictions import (
    PrecomputedPredictions,
    Prediction,
    Predictor,
    PredictorSpec,
    read_predictions,
    write_predictions,
)
from research.staleness import DEPENDS_ON, input_ages

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
    """Computes features and predictions bar by bar: the numbers of the batch.

    Bit for bit where every expert looks at single rows; experts of sequences agree to 1e-5,
    because the batch multiplies larger matrices.

    Parameters
    ----------
    model : FittedModel
        From a bundle or from `train_until`.
    compiled : bool
        Whether features are computed by compiled code; the values are the same.
    breaker : BreakerConfig, optional
        When an expert that fails is left out, and for how long.
    """

    def __init__(
        self,
        model: FittedModel,
        *,
        compiled: bool = True,
        breaker: BreakerConfig | None = None,
    ) -> None:
        spec = model.spec
        self._model = model
        self._spec = spec
        self._features = FeatureStream(
            spec.instruments, spec.interval_ns, model.config.features, compiled=compiled
        )
        settings = breaker or BreakerConfig()
        self._experts = [
            _Serving(member, len(spec.instruments), CircuitBreaker(member.name, settings))
            for member in model.members
        ]

    @classmethod
    def from_folder(
        cls, path: Path, *, compiled: bool = True, breaker: BreakerConfig | None = None
    ) -> Self:
        """Load a bundle folder, refusing one that is not exactly what was saved.

        Raises
        ------
        DataError, IntegrityError
            As `research.bundle.load_bundle`.
        """
        return cls(load_bundle(path).model, compiled=compiled, breaker=breaker)

    @property
    def spec(self) -> PredictorSpec:
        """What this predictor predicts and needs."""
        return self._spec

    @property
    def breakers(self) -> tuple[BreakerState, ...]:
        """How each expert has fared."""
        return tuple(expert.breaker.state for expert in self._experts)

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        """Take a funding rate (a fraction), known since `ts_init`."""
        self._features.update_funding(instrument_id, rate, ts_init)

    def update_series(self, name: str, value: float, ts_init: int, extra: float = math.nan) -> None:
        """Take a record of a slow series; see `Predictor`."""
        self._features.update_series(name, value, ts_init, extra)

    def update_flow(self, instrument_id: str, values: tuple[float, ...], ts_init: int) -> None:
        """Take how a bar's volume came about; see `Predictor`."""
        self._features.update_flow(instrument_id, values, ts_init)

    def update_minute(self, instrument_id: str, ts_init: int, bar: Ohlcv) -> None:
        """Take a one-minute bar; see `Predictor`."""
        self._features.update_minute(instrument_id, ts_init, bar)

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        """Take the bars that closed at `ts_init` and return the predictions made from them.

        An instrument still warming up gets none. One with undefined features (another
        instrument's bar missing, funding unknown), or one about which no expert says anything,
        gets one that is marked degraded.
        """
        rows = self._features.update(ts_init, bars)
        if not rows:
            return []
        names = [name for name in self._spec.instruments if name in rows]
        values = np.stack([rows[name] for name in names])
        codes = np.array([self._spec.instruments.index(name) for name in names], dtype=np.int64)
        slot = ts_init // self._spec.interval_ns
        outputs = {}
        for expert in self._experts:
            answer = expert.ask(slot, codes, values)
            if answer is not None:
                outputs[expert.name] = answer
        return self._predictions(names, ts_init, values, self._model.answers(outputs, values))

    def _predictions(
        self, names: list[str], ts_init: int, values: Float64Array, found: Answers
    ) -> list[Prediction]:
        experts = [member.name for member in self._model.members]
        feature_names = self._model.feature_names
        return [
            Prediction(
                name,
                ts_init,
                float(found.prob_up[row]),
                self._spec.horizon_bars,
                self._spec.model_version,
                found.reasons[row] != "",
                found.reasons[row],
                mu=float(found.mu[row]),
                sigma=float(found.sigma[row]),
                epistemic=float(found.epistemic[row]),
                volatility=float(found.volatility[row]),
                prob_low=float(found.prob_low[row]),
                prob_high=float(found.prob_high[row]),
                entry_threshold=self._model.guidance.entry_threshold,
                side=int(found.side[row]),
                regime=regime_name(float(found.regime[row])),
                experts=tuple(
                    zip(
                        experts,
                        found.experts[row].tolist(),
                        found.weights[row].tolist(),
                        strict=True,
                    )
                ),
                input_ages=input_ages(values[row], feature_names),
            )
            for row, name in enumerate(names)
        ]


class _Serving:
    """One expert in serving: its stream, behind its breaker.

    Parameters
    ----------
    member : Member
        The expert.
    n_instruments : int
        How many there are.
    breaker : CircuitBreaker
        What stands before it.
    """

    def __init__(self, member: Member, n_instruments: int, breaker: CircuitBreaker) -> None:
        self.name = member.name
        self.breaker = breaker
        self._expert = member.expert
        self._count = n_instruments
        # An expert of sequences has nothing to say until it has seen enough, and one that depends
        # on a slow series nothing without it: neither is a failure. What has answered the bar
        # before, however, owes an answer now.
        self._row_model = member.expert.reach_bars == 0
        self._optional = member.name in DEPENDS_ON
        self._begin()

    def _begin(self) -> None:
        self._stream = self._expert.stream(self._count)
        self._answered = np.full(self._count, kernel_tools.NEVER, dtype=np.int64)

    def ask(self, slot: int, codes: Int64Array, values: Float64Array) -> ExpertOutput | None:
        """Return the expert's answers; None if it is out or has failed."""
        owed = self._row_model | (self._answered[codes] == slot - 1)
        due = np.zeros(len(codes), dtype=bool) if self._optional else owed
        answer = self.breaker.call(slot, due, lambda: self._stream.update(slot, codes, values))
        if answer is None:
            # What it remembers may be wrong, and has a hole from now on: it begins anew.
            self._begin()
        else:
            self._answered[codes[~np.isnan(answer.prob_up)]] = slot
        return answer

"""Several experts' probabilities become one: the fitted fusion, as it is served.

Serving needs numpy only. `research.fusion_fit` fits a fusion and chooses its method.

    equal        mean of the probabilities
    fixed        weighted mean; lightgbm 0.5, tft 0.3, sentiment 0.2 as in the first version
    confidence   mean weighted by each row's |2p - 1|
    best         the one expert with the least log loss; the next best where it is missing
    log_pool     weighted sum of log-odds (Genest and Zidek, 1986), weights learned, none negative
    stacking     logistic regression on the log-odds (Wolpert, 1992), with a ridge
    regime       log_pool with weights for each regime, held to the common ones

Log-odds are measured from those of the base rate, so that experts who know nothing say the base
rate together as each alone, and are clipped, so that none can shout the others down.

Missing experts are left out and the rest renormalised: in the means so that the weights sum to
one, in the sums of log-odds as `research.fusion_pools.pooled_log_odds` describes. The same holds
for stale ones, in proportion to their freshness.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from catalog.arrays import Float64Array
from catalog.config import Config
from catalog.errors import DataError, IntegrityError
from research.calibration import Calibration, CalibrationConfig, calibration_from_json
from research.fusion_pools import first_of, linear_pool, pooled_log_odds, shares, total
from research.probabilities import from_log_odds, log_odds

METHODS = ("equal", "fixed", "confidence", "best", "log_pool", "stacking", "regime")
"""What `auto` chooses from, the simplest first."""
DEFAULT = "log_pool"
"""What is taken where the rows do not say clearly that something else is better."""
REGIMES = (-1, 0, 1)
"""Mean-reverting, neutral, trend."""
FIRST_WEIGHTS = {"lightgbm": 0.5, "tft": 0.3, "sentiment": 0.2}
"""What the first version weighted its experts with."""
_LINEAR = ("equal", "fixed", "confidence", "best")


class FusionConfig(Config):
    """How experts are combined.

    Parameters
    ----------
    method : str
        One of the module's methods, or auto: the one with the least held-out log loss inside the
        training span, but `DEFAULT` where that is within one standard error of it.
    fixed_weights : dict of float
        Weights of the method fixed by the experts' names, `FIRST_WEIGHTS` if absent; an expert
        that is not named has none.
    prior_rows : float
        How many rows' worth of evidence holds learned weights to equal ones. Experts' log-odds
        correlate highly, so that the rows alone would leave their differences to chance.
    regime_prior_rows : float
        How many rows' worth holds a regime's weights to the common ones.
    log_odds_limit : float
        Log-odds beyond this are clipped.
    choice_folds : int
        Contiguous purged blocks, each predicted by a fusion fitted on the others.
    recalibration : CalibrationConfig
        Whether and how the fused probability is calibrated once more; auto judges it by
        held-out log loss, too.
    side_threshold : float
        A prediction's side is long above this probability of a rise, short above this
        probability of a fall, and flat between. What a strategy makes of it is its own affair.
    """

    method: Literal[
        "auto", "equal", "fixed", "confidence", "best", "log_pool", "stacking", "regime"
    ] = "auto"
    fixed_weights: dict[str, float] = Field(default_factory=lambda: dict(FIRST_WEIGHTS))
    prior_rows: float = Field(default=2_000.0, gt=0.0)
    regime_prior_rows: float = Field(default=20_000.0, gt=0.0)
    log_odds_limit: float = Field(default=5.0, gt=0.0, le=13.0)
    choice_folds: int = Field(default=5, ge=2, le=50)
    recalibration: CalibrationConfig = CalibrationConfig(method="auto")
    side_threshold: float = Field(default=0.5, ge=0.5, lt=1.0)

    @model_validator(mode="after")
    def _check(self) -> FusionConfig:
        values = self.fixed_weights.values()
        if any(value < 0.0 for value in values) or sum(values) <= 0.0:
            raise ValueError(
                f"fixed_weights must not be negative and not all zero, were {self.fixed_weights}"
            )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class FusionResult:
    """Fused probabilities, and who had a say in them.

    Parameters
    ----------
    prob_up : (n_rows,) float64
        NaN where every expert is missing.
    weights : (n_rows, n_experts) float64
        Each expert's share: not negative, summing to one over those present (zero where none
        is). For log-odds the share of the absolute weights.
    missing : (n_rows, n_experts) bool
        Experts without an answer, or whose freshness is zero.
    """

    prob_up: Float64Array
    weights: Float64Array
    missing: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """A fitted fusion.

    Parameters
    ----------
    method : str
        See the module.
    experts : tuple of str
        Names, in the order of the columns of `combine`.
    weights : (1 or 4, n_experts) float64
        Weights; for regime the common ones, then those of each of `REGIMES`; for best a ranking,
        the larger the better.
    intercept : float
        Added to the pooled log-odds; zero but for stacking.
    centre : float
        Log-odds of the base rate.
    moments : (n_experts, n_experts) float64
        Mean products of the experts' log-odds less their centre.
    log_odds_limit : float
        See `FusionConfig`.
    calibration : Calibration, optional
        Applied to the fused probability.
    """

    method: str
    experts: tuple[str, ...]
    weights: Float64Array
    intercept: float
    centre: float
    moments: Float64Array
    log_odds_limit: float
    calibration: Calibration | None = None

    def combine(
        self,
        probabilities: Float64Array,
        freshness: Float64Array | None = None,
        regime: Float64Array | None = None,
    ) -> FusionResult:
        """Combine what the experts say. A row alone gives the same bits as in a batch.

        Parameters
        ----------
        probabilities : (n_rows, n_experts) float64
            Calibrated, in (0, 1); NaN = missing.
        freshness : (n_rows, n_experts) float64, optional
            In [0, 1]: 1 counts in full, 0 as missing. All fresh if absent.
        regime : (n_rows,) float64, optional
            -1, 0 or 1; NaN = unknown, which takes the common weights. All unknown if absent.

        Raises
        ------
        DataError
            If a shape or a value is none of these.
        """
        fresh = np.ones(probabilities.shape) if freshness is None else freshness
        state = np.full(len(probabilities), np.nan) if regime is None else regime
        self._check(probabilities, fresh, state)
        columns = np.ascontiguousarray(probabilities.T)
        available = np.where(np.isnan(columns), 0.0, np.ascontiguousarray(fresh.T))
        if self.method in _LINEAR:
            prob_up, share = self._mean(columns, available)
        else:
            prob_up, share = self._sum_of_log_odds(columns, available, state)
        if self.calibration is not None:
            prob_up = self.calibration(prob_up)
        nobody = ~(available > 0.0).any(axis=0)
        prob_up = np.where(nobody, np.nan, prob_up)
        return FusionResult(prob_up, np.ascontiguousarray(share.T), available.T == 0.0)

    def _mean(
        self, columns: Float64Array, available: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        if self.method == "best":
            share = first_of(self.weights[0], available > 0.0)
            return linear_pool(share, columns), share
        base = self.weights[0][:, np.newaxis] * available
        wanted = base
        if self.method == "confidence":
            wanted = base * np.abs(2.0 * np.where(available > 0.0, columns, 0.5) - 1.0)
        share = shares(wanted, np.where(total(base) > 0.0, base, available))
        return linear_pool(share, columns), share

    def _sum_of_log_odds(
        self, columns: Float64Array, available: Float64Array, regime: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        known = np.where(available > 0.0, columns, 0.5)
        said = log_odds(known, self.log_odds_limit) - self.centre
        heard = np.where(available > 0.0, said, 0.0)
        weights = np.ascontiguousarray(self.weights[self._weight_rows(regime)].T)
        pooled, rest = pooled_log_odds(weights, available, heard, self.moments)
        share = shares(np.abs(rest), available)
        return from_log_odds(pooled + (self.centre + self.intercept)), share

    def _weight_rows(self, regime: Float64Array) -> NDArray[np.int64]:
        rows = np.zeros(len(regime), dtype=np.int64)
        if self.method == "regime":
            for row, value in enumerate(REGIMES, start=1):
                rows[regime == value] = row
        return rows

    def _check(
        self, probabilities: Float64Array, freshness: Float64Array, regime: Float64Array
    ) -> None:
        wanted = (len(probabilities), len(self.experts))
        if probabilities.shape != wanted or freshness.shape != wanted:
            raise DataError(
                f"probabilities and freshness must be (n_rows, {len(self.experts)}) for the "
                f"experts {', '.join(self.experts)}, were {probabilities.shape} and "
                f"{freshness.shape}"
            )
        if regime.shape != wanted[:1]:
            raise DataError(f"regime must be {wanted[:1]}, was {regime.shape}")
        outside = (probabilities <= 0.0) | (probabilities >= 1.0)
        if outside.any():
            expert = self.experts[int(np.flatnonzero(outside.any(axis=0))[0])]
            raise DataError(
                f"probabilities of {expert} must be inside (0, 1) or NaN, one was "
                f"{probabilities[outside][0]}"
            )
        if not ((freshness >= 0.0) & (freshness <= 1.0)).all():
            raise DataError("freshness must be in [0, 1], some was not")
        if not (np.isnan(regime) | np.isin(regime, REGIMES)).all():
            raise DataError(f"regime must be one of {REGIMES} or NaN, some was not")

    def to_json(self) -> str:
        """Return the fusion as JSON; numbers survive the round trip bit for bit."""
        return json.dumps(
            {
                "method": self.method,
                "experts": list(self.experts),
                "weights": self.weights.tolist(),
                "intercept": self.intercept,
                "centre": self.centre,
                "moments": self.moments.tolist(),
                "log_odds_limit": self.log_odds_limit,
                "calibration": (
                    None if self.calibration is None else json.loads(self.calibration.to_json())
                ),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load a fusion.

        Raises
        ------
        IntegrityError
            If the text is not what `to_json` could have written.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            calibration = record["calibration"]
            found = cls(
                method=record["method"],
                experts=tuple(record["experts"]),
                weights=np.array(record["weights"], dtype=np.float64),
                intercept=float(record["intercept"]),
                centre=float(record["centre"]),
                moments=np.array(record["moments"], dtype=np.float64),
                log_odds_limit=float(record["log_odds_limit"]),
                calibration=(
                    None if calibration is None else calibration_from_json(json.dumps(calibration))
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"fusion must be a JSON record of weights: {error!r}") from error
        found._check_record()
        return found

    def _check_record(self) -> None:
        if self.method not in METHODS:
            raise IntegrityError(f"fusion method must be one of {METHODS}, was {self.method!r}")
        count = len(self.experts)
        names_usable = (
            count > 0
            and all(isinstance(name, str) for name in self.experts)
            and len(set(self.experts)) == count
        )
        if not names_usable:
            raise IntegrityError(f"fusion experts must be different names, were {self.experts}")
        rows = 1 + len(REGIMES) if self.method == "regime" else 1
        if self.weights.shape != (rows, count) or self.moments.shape != (count, count):
            raise IntegrityError(
                f"fusion weights and moments of {count} experts must be {(rows, count)} and "
                f"{(count, count)}, were {self.weights.shape} and {self.moments.shape}"
            )
        numbers = (self.intercept, self.centre, self.log_odds_limit)
        finite = [np.isfinite(part).all() for part in (self.weights, self.moments, numbers)]
        if not all(finite) or self.log_odds_limit <= 0.0:
            raise IntegrityError("fusion numbers must be finite and its limit positive, were not")
        if self.method != "stacking" and (self.weights < 0.0).any():
            raise IntegrityError(
                f"fusion weights must be >= 0 for {self.method}, were {self.weights.tolist()}"
            )

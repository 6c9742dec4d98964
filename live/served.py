"""What a bundle said bar by bar: how its experts fared, and that it is what it says in one batch.

A run with a bundle measures the predictions that the bundle makes of the whole span at once, and
trades those that it makes as the bars come in. They are the same, or the run's numbers would be of
other predictions than its trades: an expert that fails in serving must not go unnoticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array
from catalog.errors import RunFailedError
from catalog.timestamps import format_time
from live.parity import SEQUENCE_TOLERANCE
from research.circuit_breaker import BreakerState
from research.degraded import DegradedShare
from research.predictions import EXPERT_PREFIX

if TYPE_CHECKING:
    import pandas as pd

    from research.fitted import FittedModel

_KEYS = ["ts_init", "instrument_id"]
_PROBABILITIES, _RETURNS = ("prob_up", "epistemic"), ("mu", "sigma")
_LEAST_SCALE, _SLOPE = 0.01, 4.0
"""A tolerance of a probability is one of a return, times its scale (a hundredth at least) and times
this: where a probability is steepest it moves by a quarter of what goes into it."""


def tolerance_of(model: FittedModel) -> float:
    """Return by how much a probability may differ between stream and batch: 0 but for sequences."""
    sequences = any(member.expert.reach_bars for member in model.members)
    return SEQUENCE_TOLERANCE if sequences else 0.0


@dataclass(frozen=True, slots=True)
class Served:
    """How a bundle fared that predicted bar by bar.

    Parameters
    ----------
    rows : int
        Predictions that were published.
    degraded : DegradedShare
        How many of those were marked degraded, by a missing bar of another instrument too.
    breakers : tuple of BreakerState
        How each expert fared, since before the warm-up.
    """

    rows: int
    degraded: DegradedShare
    breakers: tuple[BreakerState, ...]

    @classmethod
    def of(cls, published: pd.DataFrame, breakers: Sequence[BreakerState]) -> Served:
        """Take what was published (`RunFrames.predictions`) and the states of the breakers."""
        degraded = DegradedShare.of(published["degraded_reason"])
        return cls(len(published), degraded, tuple(breakers))

    @property
    def failing(self) -> tuple[BreakerState, ...]:
        """The experts that were left out at least once."""
        return tuple(state for state in self.breakers if state.trips)

    def to_json(self) -> dict[str, Any]:
        """Return all of it for `metrics.json` and `run.json`."""
        states = {state.name: asdict(state) for state in self.breakers}
        for state in states.values():
            del state["name"]
        return {"rows": self.rows, **self.degraded.as_dict(), "breakers": states}

    def require_equal(self, published: pd.DataFrame, batch: pd.DataFrame, tolerance: float) -> None:
        """Refuse a run whose predictions are not those that it is measured by.

        Parameters
        ----------
        published, batch : DataFrame
            As `RunFrames.predictions` and `WalkForwardResult.predictions`: what was said bar by
            bar, and at once.
        tolerance : float
            Of a probability; see `tolerance_of`. Returns may differ by four times as much of
            their scale.

        Raises
        ------
        RunFailedError
            Naming the first prediction that differs, and the experts that were left out.
        """
        stream = published.sort_values(_KEYS, ignore_index=True)
        whole = batch.sort_values(_KEYS, ignore_index=True)
        if not stream[_KEYS].astype(object).equals(whole[_KEYS].astype(object)):
            raise RunFailedError(
                f"what a bundle says bar by bar must be of the same times and instruments as what "
                f"it says in one batch, was of {len(stream):,} and {len(whole):,}"
                f"{self._blame()}; the run was not written"
            )
        apart = {
            name: _apart(stream[name].to_numpy(np.float64), whole[name].to_numpy(np.float64))
            > tolerance * leeway
            for name, leeway in _leeways(whole).items()
        }
        differing = np.logical_or.reduce(list(apart.values()))
        if differing.any():
            raise RunFailedError(
                f"what a bundle says bar by bar must be what it says in one batch (to "
                f"{tolerance:g} of a probability), because the run's prediction metrics are "
                f"measured on the latter, but {int(differing.sum()):,} of {len(whole):,} "
                f"predictions differ; {_first(stream, whole, apart)}{self._blame()}; the run was "
                "not written"
            )

    def _blame(self) -> str:
        if not self.failing:
            return (
                ". No expert failed: `levibot audit parity` shows where live and backtest part ways"
            )
        told = "; ".join(breaker_line(asdict(state)) for state in self.failing)
        return f". Experts failed and were left out: {told}. Mend what is named and run it again"


def breaker_line(state: Mapping[str, Any]) -> str:
    """Return how often an expert failed, and the last reason."""
    return (
        f"{state['name']} (trips: {state['trips']:,}, failed: {state['failures']:,} of "
        f"{state['calls']:,} calls, held back: {state['refusals']:,}; at last: {state['reason']})"
    )


def _leeways(batch: pd.DataFrame) -> dict[str, Float64Array]:
    """Return the columns to compare, (n_rows,) each: what a probability's tolerance is to them."""
    scale = np.nan_to_num(batch["sigma"].to_numpy(np.float64), nan=0.0)
    experts = [name for name in map(str, batch) if name.startswith(EXPERT_PREFIX)]
    return {
        **dict.fromkeys((*_PROBABILITIES, *experts), np.ones(len(batch))),
        **dict.fromkeys(_RETURNS, _SLOPE * np.maximum(scale, _LEAST_SCALE)),
    }


def _apart(one: Float64Array, other: Float64Array) -> Float64Array:
    """Return by how much values differ; infinity where only one of them is there."""
    found: Float64Array = np.nan_to_num(np.abs(one - other), nan=np.inf)
    found[(np.isnan(one) & np.isnan(other)) | (one == other)] = 0.0
    return found


def _first(
    stream: pd.DataFrame, whole: pd.DataFrame, apart: Mapping[str, NDArray[np.bool_]]
) -> str:
    """Describe the first prediction that differs by the first column that does."""
    row = min(int(np.argmax(places)) for places in apart.values() if places.any())
    name = next(name for name, places in apart.items() if places[row])
    where = f"{format_time(int(whole['ts_init'].iloc[row]))} {whole['instrument_id'].iloc[row]}"
    one, other = float(stream[name].iloc[row]), float(whole[name].iloc[row])
    return f"the first at {where}: {name} is {one!r} bar by bar and {other!r} in batch"

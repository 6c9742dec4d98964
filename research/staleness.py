"""How old inputs may be: stale ones lower the weight of what depends on them, then silence it.

Prices are not asked for here: without the bar of a time there is no row, and without the bars of
others a row is degraded. This is about slow series, whose last value stands for a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from catalog.arrays import Float64Array
from catalog.config import Config
from catalog.errors import ConfigError
from research.circuit_breaker import flat_reason, freshness
from research.slow_inputs import SLOW_PREFIXES, TEMPOS

DEPENDS_ON = {"sentiment": "news_age"}
"""The column with the age of what an expert cannot do without, by the expert's name."""


class StalenessConfig(Config):
    """Ages in bars at which an input begins to count less and at which it counts no more.

    Parameters
    ----------
    fresh_bars : float
        Up to this age an input counts in full.
    stale_bars : float
        From this age on it does not count: the expert that depends on it is left out. Between the
        two its weight falls linearly.
    flat_bars : dict of float or None
        Greatest age of inputs without which there is to be no position at all, by the names of
        their columns without ``_age``, such as ``news``. Slow inputs that are not named have the
        limit of their kind (`research.slow_inputs.TEMPOS`); None: no limit.
    """

    fresh_bars: float = Field(default=16.0, ge=0.0)
    stale_bars: float = Field(default=96.0, gt=0.0)
    flat_bars: dict[str, float | None] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stale_bars <= self.fresh_bars:
            raise ValueError(
                f"stale_bars must be above fresh_bars ({self.fresh_bars:g}), was "
                f"{self.stale_bars:g}"
            )
        stated = {name: age for name, age in self.flat_bars.items() if age is not None}
        bad = {name: age for name, age in stated.items() if age <= 0.0}
        if bad:
            raise ValueError(
                f"flat_bars must be positive ages in bars, or null for no limit, were {bad}"
            )
        return self


def expert_freshness(
    values: Float64Array, names: Sequence[str], experts: Sequence[str], config: StalenessConfig
) -> Float64Array:
    """Return how far each expert's inputs may be relied on, (n_rows, n_experts), in [0, 1].

    Parameters
    ----------
    values : (n_rows, n_features) float64
        Feature rows.
    names : sequence of str
        Their columns.
    experts : sequence of str
        Names of the experts.
    config : StalenessConfig
        The ages.
    """
    found = np.ones((len(values), len(experts)))
    for place, expert in enumerate(experts):
        age = DEPENDS_ON.get(expert)
        if age is not None and age in names:
            ages = values[:, list(names).index(age)]
            found[:, place] = freshness(ages, config.fresh_bars, config.stale_bars)
    return found


def flat_limits(
    names: Sequence[str], config: StalenessConfig, interval_ns: int
) -> dict[str, float]:
    """Return the greatest age in bars of each input that has a limit, by name.

    Parameters
    ----------
    names : sequence of str
        Columns of the features.
    config : StalenessConfig
        What it says of an input counts before the limit of the input's kind.
    interval_ns : int
        Length of a bar.

    Raises
    ------
    ConfigError
        If `flat_bars` names an input whose age is no feature.
    """
    unknown = [name for name in config.flat_bars if f"{name}_age" not in names]
    if unknown:
        known = [name.removesuffix("_age") for name in names if name.endswith("_age")]
        raise ConfigError(
            f"staleness.flat_bars must name inputs with an age among the features "
            f"({', '.join(known) or 'there are none'}), named {', '.join(unknown)}"
        )
    limits = {**_usual_limits(tuple(names), interval_ns), **config.flat_bars}
    return {name: limit for name, limit in limits.items() if limit is not None}


@lru_cache(maxsize=64)
def _usual_limits(names: tuple[str, ...], interval_ns: int) -> Mapping[str, float]:
    """Return the limits of the slow inputs' kinds in bars, by the inputs' names."""
    return {
        name.removesuffix("_age"): tempo.limit_ns / interval_ns
        for name in names
        if name.endswith("_age")
        for prefix, tempo in TEMPOS.items()
        if name.startswith(prefix)
    }


def flat_reasons(
    values: Float64Array, names: Sequence[str], limits: Mapping[str, float]
) -> dict[int, str]:
    """Return why some rows must be flat, by their place; rows without a reason are not in it.

    Parameters
    ----------
    values : (n_rows, n_features) float64
        Feature rows.
    names : sequence of str
        Their columns.
    limits : mapping of float
        As `flat_limits` returns them.
    """
    if not limits:
        return {}
    places = [list(names).index(f"{name}_age") for name in limits]
    ages = values[:, places]
    # Not ``ages > limits``: an age that is unknown is too old as well.
    too_old = ~(ages <= np.array(list(limits.values())))
    return {
        row: flat_reason(dict(zip(limits, ages[row].tolist(), strict=True)), limits)
        for row in np.flatnonzero(too_old.any(axis=1)).tolist()
    }


def input_ages(values: Float64Array, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return name and age in bars of each slow input of one row, (n_features,); NaN: unknown."""
    return tuple(
        (name.removesuffix("_age"), float(values[place]))
        for place, name in enumerate(names)
        if name.endswith("_age") and name.startswith(SLOW_PREFIXES)
    )

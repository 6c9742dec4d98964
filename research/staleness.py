"""How old inputs may be: stale ones lower the weight of what depends on them, then silence it.

Prices are not asked for here: without the bar of a time there is no row, and without the bars of
others a row is degraded. This is about slow series, whose last value stands for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from catalog.arrays import Float64Array
from catalog.config import Config
from catalog.errors import ConfigError
from research.circuit_breaker import flat_reason, freshness

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
    flat_bars : dict of float
        Greatest age of inputs without which there is to be no position at all, by the names of
        their columns without ``_age``, such as ``news``; none by default.
    """

    fresh_bars: float = Field(default=16.0, ge=0.0)
    stale_bars: float = Field(default=96.0, gt=0.0)
    flat_bars: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.stale_bars <= self.fresh_bars:
            raise ValueError(
                f"stale_bars must be above fresh_bars ({self.fresh_bars:g}), was "
                f"{self.stale_bars:g}"
            )
        bad = {name: age for name, age in self.flat_bars.items() if not age > 0.0}
        if bad:
            raise ValueError(f"flat_bars must be positive ages in bars, were {bad}")
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


def flat_reasons(
    values: Float64Array, names: Sequence[str], config: StalenessConfig
) -> dict[int, str]:
    """Return why some rows must be flat, by their place; rows without a reason are not in it.

    Raises
    ------
    ConfigError
        If `flat_bars` names an input whose age is no feature.
    """
    if not config.flat_bars:
        return {}
    unknown = [name for name in config.flat_bars if f"{name}_age" not in names]
    if unknown:
        known = [name.removesuffix("_age") for name in names if name.endswith("_age")]
        raise ConfigError(
            f"staleness.flat_bars must name inputs with an age among the features "
            f"({', '.join(known) or 'there are none'}), named {', '.join(unknown)}"
        )
    places = {name: list(names).index(f"{name}_age") for name in config.flat_bars}
    found = {}
    for row in range(len(values)):
        ages = {name: float(values[row, place]) for name, place in places.items()}
        reason = flat_reason(ages, config.flat_bars)
        if reason:
            found[row] = reason
    return found


def input_ages(values: Float64Array, names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Return name and age in bars of each slow input of one row, (n_features,); NaN: unknown."""
    return tuple(
        (name.removesuffix("_age"), float(values[place]))
        for place, name in enumerate(names)
        if name.endswith("_age") and name.startswith(SLOW_PREFIXES)
    )


SLOW_PREFIXES = ("onchain_", "dvol_", "fear_greed_", "news_")
"""Columns made of slow series."""

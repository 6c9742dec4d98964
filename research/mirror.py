"""The mirrored market: every price becomes its inverse, and a rise becomes a fall.

Little tells up from down at the scale of bars: what follows a sharp fall is, but for its sign,
what follows a sharp rise. An expert that is shown each example a second time in the mirror, with
the label turned round, learns from twice the examples, and one that answers
``(logit(x) - logit(mirror(x))) / 2`` cannot lean to one side for no other reason than that prices
rose while it was trained. What leaning is left is the calibration's to find.

How a feature looks in the mirror is stated here for every one of them, and proven in the tests by
computing the features of a mirrored panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError

_ODD = (
    *("return_", "ema_distance_", "ema_slope_", "zscore_20", "signed_volume_20", "body"),
    *("lead_return_", "relative_return_", "peers_return_", "ratio_zscore_"),
)
_COMPLEMENT = ("rsi_14", "close_location")
_EVEN = (
    *("true_range", "volatility_", "volume_zscore", "day_", "week_", "instrument_code"),
    *("funding_", "onchain_", "dvol_", "fear_greed_", "news_", "regime"),
)
_PARTNERS = {"upper_wick": "lower_wick"}


@dataclass(frozen=True, slots=True, eq=False)
class Mirror:
    """How the rows of a feature table look in the mirror: ``sign * row[partner] + offset``.

    Parameters
    ----------
    partner : (n_features,) int64
        Which column each comes from: mostly itself.
    sign : (n_features,) float64
        1 or -1.
    offset : (n_features,) float64
        What is added: 1 for a fraction whose mirror image is what it lacks to one.
    """

    partner: Int64Array
    sign: Float64Array
    offset: Float64Array

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Return the mirror of a table with these columns.

        Raises
        ------
        ConfigError
            If it is not stated how a feature looks in the mirror.
        """
        places = {name: index for index, name in enumerate(names)}
        partners = {**_PARTNERS, **{other: name for name, other in _PARTNERS.items()}}
        rules = [_rule(name) for name in names]
        return cls(
            np.array([places[partners.get(name, name)] for name in names], dtype=np.int64),
            np.array([sign for sign, _ in rules]),
            np.array([offset for _, offset in rules]),
        )

    def __call__(self, values: Float64Array) -> Float64Array:
        """Return rows, (..., n_features), as they look in the mirror; NaN stays NaN."""
        mirrored: Float64Array = values[..., self.partner] * self.sign + self.offset
        return mirrored


def _rule(name: str) -> tuple[float, float]:
    """Return the sign and the offset of a feature."""
    if name in _PARTNERS or name in _PARTNERS.values() or name.startswith(_EVEN):
        return 1.0, 0.0
    if name in _COMPLEMENT:
        return -1.0, 1.0
    if name.startswith(_ODD):
        return -1.0, 0.0
    raise ConfigError(
        f"every feature must have a mirror image, {name} has none: state it in research/mirror.py"
    )

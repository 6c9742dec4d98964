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
    *("return_1", "return_1_lag_1", "return_1_lag_2", "return_1_lag_3", "return_4", "return_16"),
    *("return_96", "ema_distance_20", "ema_distance_50", "ema_distance_200", "ema_slope_20"),
    *("ema_slope_200", "zscore_20", "signed_volume_20", "body"),
    *("funding_rate", "funding_change", "funding_mean"),
    *("lead_return_1", "lead_return_4", "lead_return_16", "relative_return_1"),
    *("relative_return_16", "peers_return_1", "peers_return_4"),
    *("smc_break_of_structure", "smc_change_of_character", "smc_gap_mitigated", "smc_sweep"),
    *("smc_premium", "smc_displacement"),
    *("cross_residual_1", "cross_residual_16", "cross_lead_return_1_lag_1"),
    *("cross_lead_return_1_lag_2", "cross_lead_return_1_lag_3", "flow_signed_volume"),
    *("onchain_mvrv", "onchain_mvrv_change_7", "fear_greed_change_7", "news_score"),
)
"""Their sign turns round."""
_COMPLEMENT = (
    *("rsi_14", "close_location", "cross_rank_1", "cross_rank_16", "flow_taker_share"),
    *("flow_taker_share_20", "fear_greed_level"),
)
"""They become what they lacked to one."""
_EVEN = (
    *("true_range", "volatility_20", "volatility_ratio", "volume_zscore", "day_sine"),
    *("day_cosine", "week_sine", "week_cosine", "instrument_code", "funding_age"),
    *("funding_until", "smc_break_age", "smc_sweep_age", "cross_correlation", "cross_beta"),
    *("cross_lead_lag", "cross_dispersion_1", "cross_dispersion_16"),
    *("cross_peers_volume_zscore", "regime_efficiency", "regime_variance_ratio"),
    *("regime_volatility_percentile", "regime", "flow_trade_count", "flow_trade_size"),
    *("path_variance", "path_late_volume", "onchain_addresses_change_1"),
    *("onchain_addresses_change_7", "onchain_addresses_zscore", "onchain_addresses_age"),
    *("onchain_inflow_zscore", "onchain_outflow_zscore", "onchain_netflow"),
    *("onchain_netflow_zscore", "onchain_flows_age", "onchain_mvrv_age", "fear_greed_age"),
    *("news_count", "news_novelty", "news_disagreement", "news_age"),
)
"""They stay as they are."""
_PARTNERS = {
    "upper_wick": ("lower_wick", 1.0),
    "path_up_semivariance": ("path_down_semivariance", 1.0),
    "path_high_at": ("path_low_at", 1.0),
    "smc_swing_high_distance": ("smc_swing_low_distance", -1.0),
    "smc_block_above_distance": ("smc_block_below_distance", -1.0),
    "smc_gap_above_distance": ("smc_gap_below_distance", -1.0),
    "smc_liquidity_above_distance": ("smc_liquidity_below_distance", -1.0),
}
"""Two that change places, and with which sign."""
_TIMEFRAME = {
    **dict.fromkeys(("return_1", "return_4", "mean_distance", "body", "unfinished_return"), -1.0),
    **dict.fromkeys(("volatility_ratio", "phase"), 1.0),
}
_DVOL = ("level", "change_1", "term", "age")


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
        rules = [_rule(name) for name in names]
        absent = [partner for partner, _, _ in rules if partner not in places]
        if absent:
            raise ConfigError(
                f"features must have their mirror images beside them, had no {absent}"
            )
        return cls(
            np.array([places[partner] for partner, _, _ in rules], dtype=np.int64),
            np.array([sign for _, sign, _ in rules]),
            np.array([offset for _, _, offset in rules]),
        )

    def __call__(self, values: Float64Array) -> Float64Array:
        """Return rows, (..., n_features), as they look in the mirror; NaN stays NaN."""
        mirrored: Float64Array = values[..., self.partner] * self.sign + self.offset
        return mirrored


def _rule(name: str) -> tuple[str, float, float]:
    """Return where a feature comes from in the mirror, its sign, and what is added."""
    for one, (other, sign) in _PARTNERS.items():
        if name in (one, other):
            return (other if name == one else one), sign, 0.0
    plain = _plain(name)
    if plain in _COMPLEMENT:
        return name, -1.0, 1.0
    if plain in _ODD:
        return name, -1.0, 0.0
    if plain in _EVEN:
        return name, 1.0, 0.0
    raise ConfigError(
        f"every feature must have a mirror image, {name} has none: state it in research/mirror.py"
    )


def _plain(name: str) -> str:
    """Return the name of a feature whose rule is that of one of a family of names."""
    if name.startswith("ratio_zscore_"):
        return "zscore_20"
    family, _, rest = name.partition("_")
    if family == "tf":
        last = rest.partition("_")[2]
        if last in _TIMEFRAME:
            return "body" if _TIMEFRAME[last] < 0.0 else "true_range"
        return last
    if family == "dvol" and rest.partition("_")[2] in _DVOL:
        return "true_range"
    return name

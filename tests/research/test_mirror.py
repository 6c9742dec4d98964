"""The mirror image of every feature is what the mirrored market shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catalog.arrays import BarArrays, SeriesArrays
from catalog.errors import ConfigError
from research.events import EventArrays
from research.features import FeatureMatrix, compute_features, feature_table
from research.mirror import Mirror
from research.panel import Panel
from tests.research.markets import FULL, Market, furnished


def mirrored_bars(bars: BarArrays) -> BarArrays:
    """Turn every price into its inverse: the high becomes the low."""
    # A power of two as the price about which it is turned costs no bits.
    turned = {name: 16_384.0 / getattr(bars, name) for name in ("open", "high", "low", "close")}
    turned["high"], turned["low"] = turned["low"], turned["high"]
    return replace(bars, **turned)


def mirrored_events(events: EventArrays) -> EventArrays:
    if events.name.startswith("news."):
        return replace(events, value=-events.value)
    if events.name.endswith("fear_greed"):
        return replace(events, value=100.0 - events.value)
    if events.name.endswith("CapMVRVCur"):
        return replace(events, value=1.0 / events.value)
    return events


def mirrored_rate(series: SeriesArrays) -> SeriesArrays:
    return replace(series, value=-series.value)


def mirrored(panel: Panel) -> Panel:
    """Return the market in which a rise is a fall, whoever bought sold, and longs are shorts."""
    return replace(
        panel,
        bars=tuple(mirrored_bars(bars) for bars in panel.bars),
        minutes={name: mirrored_bars(bars) for name, bars in panel.minutes.items()},
        funding={name: mirrored_rate(series) for name, series in panel.funding.items()},
        series={name: mirrored_events(events) for name, events in panel.series.items()},
        flow={
            name: replace(
                flow,
                taker_buy_quote_volume=flow.quote_volume - flow.taker_buy_quote_volume,
            )
            for name, flow in panel.flow.items()
        },
    )


def both(panel: Panel) -> tuple[FeatureMatrix, FeatureMatrix]:
    return compute_features(panel, FULL), compute_features(mirrored(panel), FULL)


def test_every_feature_has_a_mirror_image_that_the_mirrored_market_shows() -> None:
    plain, other = both(furnished(Market(seed=3, slots=1_900, missing=0.01).panel()))
    expected = Mirror.of(plain.names)(plain.values)
    rows = plain.valid
    assert rows.sum() > 1_000
    for place, name in enumerate(plain.names):
        # Where the close lies in its bar is told in prices, not in logarithms.
        error = 0.01 if name.endswith("close_location") else 1e-7
        found, wanted = other.values[rows, place], expected[rows, place]
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=error, err_msg=name)


def test_a_mirror_of_a_mirror_is_the_thing_itself() -> None:
    names = tuple(feature.name for feature in feature_table(FULL))
    values = np.random.default_rng(0).normal(size=(50, len(names)))
    values[::7, ::3] = np.nan
    mirror = Mirror.of(names)
    np.testing.assert_allclose(mirror(mirror(values)), values, rtol=0, atol=1e-12)


def test_a_feature_without_a_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="every feature must have a mirror image, moon_phase has"):
        Mirror.of(("return_1", "moon_phase"))
    with pytest.raises(ConfigError, match="must have their mirror images beside them, had no"):
        Mirror.of(("upper_wick",))

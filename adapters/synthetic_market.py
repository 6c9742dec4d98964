"""The generating process of the synthetic market: numbers in, numpy columns out.

Every bar's close-to-close return is ``x = sigma * (m + eps)``. `eps` is a Student-t shock of unit
variance, correlated between assets and independent over time; `sigma` and the drift `m` are known
one bar before. So the probability of an up move is known exactly at the previous close: it is the
shock's distribution function, evaluated on the instrument's tick grid.

`sigma` is base volatility x regime (Markov switching) x clustering (GARCH, Bollerslev 1986) x time
of day and week. `m` is ``edge`` times bounded functions of what anyone can see at the close:

* reversal of the last return in units of its own recent volatility, stronger after a volume
  surprise (Campbell, Grossman and Wang 1993),
* a follow-up of the lead asset's last return (lead-lag, Lo and MacKinlay 1990),
* reversion of the close to its 20-bar exponential average, which lasts for about 16 bars,
* a small drift of the current regime.

With an edge of zero `m` is exactly zero and the shock is symmetric, so that every sign is a fair
coin flip, whatever is known before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from catalog.arrays import Float64Array, Int64Array
from catalog.timestamps import DAYS_PER_YEAR, NS_PER_DAY, NS_PER_HOUR

DEGREES_OF_FREEDOM = 5.0
"""Of the Student-t shocks: kurtosis 9 before clustering adds to it."""
MEAN_ABSOLUTE_SHOCK = 0.735
"""Of a Student-t with 5 degrees of freedom, scaled to unit variance."""
COMMON_SHARE = 0.72
"""Correlation between the shocks of any two assets."""
GARCH_SHOCK = 0.05
GARCH_MEMORY = 0.93
"""Chosen with the shock's kurtosis of 9 so that the fourth moment exists."""
LARGEST_RETURN = 0.3
"""A return is cut off here, symmetrically, so that no price can reach zero."""
HISTORY_BARS = 256
"""Bars simulated and thrown away, so that averages and volatility are warm at the first bar."""

REVERSAL = 0.17
FOLLOW_LEAD = 0.16
REVERSION = 0.10
SURPRISE_GAIN = 0.5
"""How much a volume surprise strengthens the reversal."""
AVERAGE_SPAN_BARS = 20
VOLUME_SPAN_BARS = 50
LOG_VOLUME_NOISE = 0.45

REGIME_VOLATILITY = (0.75, 1.0, 1.7)
REGIME_DRIFT = (0.02, 0.0, -0.03)
"""In units of a bar's standard deviation and of the edge: calm rise, sideways, panic."""
REGIME_DAYS = (9.0, 6.0, 2.5)
"""Mean length of a stay."""


@dataclass(frozen=True, slots=True)
class Asset:
    """What the process needs to know about one instrument.

    Parameters
    ----------
    price : float
        First price, quote units.
    annual_volatility : float
        Standard deviation of a year's return in the middle regime, fraction.
    daily_volume : float
        Typical volume of a day, base units.
    tick : float
        Smallest price step, quote units.
    step : float
        Smallest quantity step, base units.
    """

    price: float
    annual_volatility: float
    daily_volume: float
    tick: float
    step: float


@dataclass(frozen=True, slots=True)
class Market:
    """One simulated market, columns by asset.

    Parameters
    ----------
    ts_close : (n_bars,) int64
        Close of each bar, UTC nanoseconds.
    open, high, low, close : (n_bars, n_assets) float64
        Prices on each asset's tick grid, quote units.
    volume : (n_bars, n_assets) float64
        Base units.
    probability_up : (n_bars, n_assets) float64
        Probability, given everything known at this bar's close, that the next close is higher,
        given that it differs.
    """

    ts_close: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    probability_up: Float64Array


@dataclass(frozen=True, slots=True)
class Clock:
    """The bars to simulate: `n_bars` bars of `interval_ns` after `start` (UTC nanoseconds)."""

    start: int
    interval_ns: int
    n_bars: int

    def closes(self) -> Int64Array:
        """Return the closes of the bars, the thrown-away history before them included."""
        number = np.arange(1 - HISTORY_BARS, self.n_bars + 1, dtype=np.int64)
        return self.start + number * self.interval_ns


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Everything random that does not depend on prices; rows are bars with history, plus one.

    The row after the last bar holds what its close already knows: the next bar's volatility and
    regime.
    """

    shock: Float64Array
    sigma: Float64Array
    regime_drift: Float64Array
    log_volume: Float64Array
    surprise: Float64Array


def simulate(
    assets: tuple[Asset, ...], clock: Clock, *, edge: float, gap_frac: float, seed: int
) -> Market:
    """Return a market of `assets`; the first one leads.

    Parameters
    ----------
    assets : tuple of Asset
        The first one's last return is what the others follow.
    clock : Clock
        When and how long.
    edge : float
        Scale of the predictable part; 0 leaves none, 1 gives the oracle an AUC of about 0.57.
    gap_frac : float
        Share of bars which open away from the previous close, 0 to 1. The jump is a part of the
        bar's return, so that gaps change neither closes nor probabilities.
    seed : int
        Same seed, same numbers.
    """
    # One independent stream for each use, consumed in the order of time: a longer market begins
    # with the shorter one, and gaps do not move the closes.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    drawn = _draw(assets, clock, streams)
    close, drift = _prices(assets, drawn, edge)
    probability_up = _probability_up(assets, close, drawn.sigma[1:], drift)
    ticks = [asset.tick for asset in assets]
    opens = _opens(ticks, close, gap_frac, streams[5:7])
    high, low = _extremes(ticks, opens, close[1:], drawn.sigma[:-1] * close[:-1], streams[7])
    volume = _on_grid([asset.step for asset in assets], np.exp(drawn.log_volume[:-1]))
    kept = slice(HISTORY_BARS, None)
    return Market(
        ts_close=clock.closes()[kept],
        open=opens[kept],
        high=high[kept],
        low=low[kept],
        close=close[1:][kept],
        volume=volume[kept],
        probability_up=probability_up[kept],
    )


def _draw(assets: tuple[Asset, ...], clock: Clock, streams: list[np.random.Generator]) -> _Drawn:
    """Draw regimes, shocks, volatility and volume; none of them depends on the edge."""
    n_rows, n_assets = HISTORY_BARS + clock.n_bars + 1, len(assets)
    bars_per_day = NS_PER_DAY / clock.interval_ns
    regime = _regimes(n_rows, bars_per_day, streams[0])
    shock = _shocks(n_rows, n_assets, streams[1:4])
    cluster = _garch(shock)
    closes = np.append(clock.closes(), clock.start + (clock.n_bars + 1) * clock.interval_ns)
    season = _season(closes - clock.interval_ns // 2)[:, None]
    base = np.array([asset.annual_volatility for asset in assets])
    base = base / math.sqrt(DAYS_PER_YEAR * bars_per_day)
    level = np.array(REGIME_VOLATILITY)[regime][:, None]
    noise = _autoregression(streams[4].standard_normal((n_rows, n_assets)), 0.6)
    excess = (
        0.35 * (np.abs(shock) - MEAN_ABSOLUTE_SHOCK)
        + 0.3 * np.log(cluster * level**2)
        + LOG_VOLUME_NOISE * noise
    )
    per_bar = np.array([asset.daily_volume for asset in assets]) / bars_per_day
    log_volume = np.log(per_bar) + 1.5 * np.log(season) + excess
    return _Drawn(
        shock=shock,
        sigma=base * level * season * np.sqrt(cluster),
        regime_drift=np.array(REGIME_DRIFT)[regime],
        log_volume=log_volume,
        surprise=np.tanh((log_volume - _running_mean(log_volume, VOLUME_SPAN_BARS)) / 0.6),
    )


def _regimes(n_rows: int, bars_per_day: float, random: np.random.Generator) -> Int64Array:
    """Return the state of a Markov chain with the mean stays of `REGIME_DAYS`, (n_rows,)."""
    regime = np.empty(n_rows, dtype=np.int64)
    state, row = 1, 0
    while row < n_rows:
        stay = int(random.geometric(min(1.0, 1.0 / (REGIME_DAYS[state] * bars_per_day))))
        regime[row : row + stay] = state
        row += stay
        state = (state + int(random.integers(1, len(REGIME_DAYS)))) % len(REGIME_DAYS)
    return regime


def _shocks(n_rows: int, n_assets: int, streams: list[np.random.Generator]) -> Float64Array:
    """Return multivariate Student-t shocks of unit variance, (n_rows, n_assets)."""
    common = streams[0].standard_normal((n_rows, 1))
    own = streams[1].standard_normal((n_rows, n_assets))
    gaussian = math.sqrt(COMMON_SHARE) * common + math.sqrt(1.0 - COMMON_SHARE) * own
    # One mixing variable for all assets: they crash together, and each margin stays Student-t.
    mixing = streams[2].chisquare(DEGREES_OF_FREEDOM, (n_rows, 1)) / (DEGREES_OF_FREEDOM - 2.0)
    return np.asarray(gaussian / np.sqrt(mixing))


def _garch(shock: Float64Array) -> Float64Array:
    """Return the GARCH(1,1) variance before each shock, mean 1, (n_rows, n_assets)."""
    columns = []
    for squares in np.minimum(shock**2, 100.0).T.tolist():
        variance, value = [], 1.0
        for square in squares:
            variance.append(value)
            value = 1.0 - GARCH_SHOCK - GARCH_MEMORY + value * (GARCH_MEMORY + GARCH_SHOCK * square)
        columns.append(variance)
    return np.array(columns).T


def _season(ts: Int64Array) -> Float64Array:
    """Return the volatility factor of the hour (most at 14:30 UTC) and of the weekend."""
    hour = (ts % NS_PER_DAY) / NS_PER_HOUR
    weekday = (ts // NS_PER_DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    factor = np.exp(0.35 * np.cos(2.0 * np.pi * (hour - 14.5) / 24.0))
    return np.asarray(factor * np.where(weekday >= 5, 0.75, 1.05))


def _autoregression(noise: Float64Array, memory: float) -> Float64Array:
    """Return an AR(1) series of unit variance driven by `noise`, (n_rows, n_assets)."""
    scale = math.sqrt(1.0 - memory * memory)
    columns = []
    for values in noise.T.tolist():
        state, column = values[0], []
        for value in values:
            column.append(state)
            state = memory * state + scale * value
        columns.append(column)
    return np.array(columns).T


def _running_mean(values: Float64Array, span: int) -> Float64Array:
    """Return the exponential average through each row, (n_rows, n_assets)."""
    weight = 2.0 / (span + 1.0)
    columns = []
    for column in values.T.tolist():
        mean, means = column[0], []
        for value in column:
            mean += weight * (value - mean)
            means.append(mean)
        columns.append(means)
    return np.array(columns).T


def _prices(
    assets: tuple[Asset, ...], drawn: _Drawn, edge: float
) -> tuple[Float64Array, Float64Array]:
    """Walk the prices bar by bar on the tick grid, since each drift depends on them.

    Returns
    -------
    close : (n_rows, n_assets) float64
        The first price, then each bar's close.
    drift : (n_rows - 1, n_assets) float64
        The next bar's drift as known at each close, in its standard deviations.
    """
    n_bars, n_assets = len(drawn.sigma) - 1, len(assets)
    closes: list[list[float]] = [[]] * n_assets
    drifts: list[list[float]] = [[]] * n_assets
    lead: list[float] = []
    regime_drift = (edge * drawn.regime_drift[1:]).tolist()
    for number, asset in enumerate(assets):
        walk = _Walk(asset, float(drawn.sigma[0, number]))
        rows = zip(
            drawn.sigma[:-1, number].tolist(),
            drawn.shock[:-1, number].tolist(),
            drawn.surprise[:-1, number].tolist(),
            regime_drift,
            lead or [0.0] * n_bars,
            strict=True,
        )
        for sigma, shock, surprise, trend, leader in rows:
            walk.step(sigma, shock)
            walk.look(edge, surprise, trend, FOLLOW_LEAD * leader)
        closes[number], drifts[number] = walk.closes, walk.drifts
        lead = lead or walk.scaled
    return _on_grid([asset.tick for asset in assets], np.array(closes).T), np.array(drifts).T


class _Walk:
    """One asset's price, moving on its tick grid, and what its past says about the next bar."""

    def __init__(self, asset: Asset, sigma: float) -> None:
        self.tick = asset.tick
        self.price = max(1.0, round(asset.price / asset.tick)) * asset.tick
        self.average = self.price
        self.variance = sigma * sigma
        self.drift = 0.0
        self.closes = [self.price]
        self.drifts: list[float] = []
        self.scaled: list[float] = []

    def step(self, sigma: float, shock: float) -> None:
        """Move the price by one bar."""
        wanted = sigma * (self.drift + shock)
        wanted = min(LARGEST_RETURN, max(-LARGEST_RETURN, wanted))
        ticks = round(self.price / self.tick)
        # The rounded number of ticks is symmetric in the return, so that with no drift up and
        # down are equally likely to the last bit; rounding the new price itself would not be.
        price = max(1, ticks + round(ticks * wanted)) * self.tick
        move = price / self.price - 1.0
        self.price = price
        self.closes.append(price)
        weight = 2.0 / (AVERAGE_SPAN_BARS + 1.0)
        self.scaled.append(math.tanh(move / math.sqrt(self.variance)))
        self.variance += weight * (move * move - self.variance)
        self.average += weight * (price - self.average)

    def look(self, edge: float, surprise: float, trend: float, follow: float) -> None:
        """Set the next bar's drift from what is known now."""
        distance = (self.price / self.average - 1.0) / math.sqrt(self.variance)
        seen = (
            follow
            - REVERSAL * self.scaled[-1] * (1.0 + SURPRISE_GAIN * surprise)
            - REVERSION * math.tanh(0.5 * distance)
        )
        self.drift = edge * seen + trend
        self.drifts.append(self.drift)


def _probability_up(
    assets: tuple[Asset, ...], close: Float64Array, sigma: Float64Array, drift: Float64Array
) -> Float64Array:
    """Return P(next close > close | next close != close) at each bar's close, exactly.

    The price moves up when the return exceeds half a tick, down when it is below minus half a
    tick (``sigma * (drift + shock)`` against ``tick / (2 * close)``).
    """
    half_tick = np.array([asset.tick for asset in assets]) / (2.0 * close[1:]) / sigma
    scale = math.sqrt(DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2.0))
    up = stdtr(DEGREES_OF_FREEDOM, scale * (drift - half_tick))
    down = stdtr(DEGREES_OF_FREEDOM, scale * (-drift - half_tick))
    return np.asarray(up / (up + down))


def _on_grid(steps: list[float], values: Float64Array) -> Float64Array:
    """Round each column to its step, at least one step."""
    columns = np.maximum(np.rint(values / steps), 1.0) * steps
    # 420001 * 0.1 is 42000.100000000006: keep what the exchange would print.
    for number, step in enumerate(steps):
        columns[:, number] = np.round(columns[:, number], max(0, math.ceil(-math.log10(step))))
    return np.asarray(columns)


def _opens(
    ticks: list[float],
    close: Float64Array,
    gap_frac: float,
    streams: list[np.random.Generator],
) -> Float64Array:
    """Return each bar's open: the previous close, or for a gap a random part of the way on."""
    before, after = close[:-1], close[1:]
    gap = streams[0].random(before.shape) < gap_frac
    part = streams[1].random(before.shape)
    return np.where(gap, _on_grid(ticks, before + part * (after - before)), before)


def _extremes(
    ticks: list[float],
    opens: Float64Array,
    closes: Float64Array,
    deviation: Float64Array,
    random: np.random.Generator,
) -> tuple[Float64Array, Float64Array]:
    """Return high and low: the extremes of a Brownian bridge from open to close.

    The maximum of a bridge has a closed distribution (Karatzas and Shreve 1991, section 4.3);
    high and low are drawn from it independently of each other.
    """
    spread = (closes - opens) ** 2
    exponential = random.standard_exponential((*opens.shape, 2))
    reach = np.sqrt(spread[..., None] + 2.0 * deviation[..., None] ** 2 * exponential)
    high = _on_grid(ticks, (opens + closes + reach[..., 0]) / 2.0)
    low = _on_grid(ticks, (opens + closes - reach[..., 1]) / 2.0)
    return high, low

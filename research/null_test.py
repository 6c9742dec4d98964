"""Markets in which nothing can be foretold, made from a real one, and the p-value that they give.

A pipeline is run on many of them as it was run on the real market. How often it does as well
there is the chance that its result was luck, with everything in it: features, fits, thresholds,
costs. What each kind keeps of the market decides what the p-value speaks about:

=============  ====================================  =====================================
kind           kept                                  lost
=============  ====================================  =====================================
block_shuffle  every bar with its volume, hence the  all order beyond a block; with blocks
               returns' distribution and drift;      of one bar also the clustering of
               everything between instruments; the   volatility and the time of day
               order inside a block
random_sign    every bar's size, volume, place and   every direction; the distribution of
               time of day, hence clustering of      returns becomes symmetric about its
               volatility; everything between        mean (the drift is kept)
               instruments
phase          every bar with its volume, hence the  all that is not linear: clustering of
               returns' distribution and drift;      volatility, asymmetry in time
               nearly the linear correlations in
               time and between instruments
=============  ====================================  =====================================

With ``block_shuffle`` and blocks of one bar, and with ``random_sign``, no direction can be foretold
from the past: the bars are exchangeable, or each turns on a coin that nobody has seen. Longer
blocks keep what can be foretold inside a block. ``phase`` keeps what a *linear* model could
foretell (its null is a linear process), so a real linear edge survives in it: do not use it to
prove an edge of that kind.

Funding rates, on-chain metrics, indices and news stay at their own times: they know nothing of the
new order. Order flow and minutes move and turn with their bars.

References
----------
Theiler, J., Eubank, S., Longtin, A., Galdrikian, B. and Farmer, J. (1992). Testing for
nonlinearity in time series: the method of surrogate data. Physica D 58.
Prichard, D. and Theiler, J. (1994). Generating surrogate data for time series with several
simultaneously measured variables. Physical Review Letters 73. (The same phases for all.)
Phipson, B. and Smyth, G. (2010). Permutation p-values should never be zero. Statistical
Applications in Genetics and Molecular Biology 9.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from catalog.arrays import BarArrays, Float64Array, Int64Array
from catalog.config import Config
from catalog.errors import DataError
from catalog.timestamps import format_time
from research.panel import Panel

if TYPE_CHECKING:
    from catalog.store import FlowArrays

type NullKind = Literal["block_shuffle", "random_sign", "phase"]

MIN_SLOTS = 8
"""A stretch of fewer bars than this stays as it is under ``phase``: it has hardly any phases."""


class NullConfig(Config):
    """Which null market to make.

    Parameters
    ----------
    kind : {"block_shuffle", "random_sign", "phase"}
        See the module.
    block_bars : int
        Length of the blocks that are shuffled, in bars; other kinds do not use it. Where blocks
        begin is drawn as well.
    seed : int
        Of all that is drawn. Each null run has its own; the same seed gives the same market.
    """

    kind: NullKind = "block_shuffle"
    block_bars: int = Field(default=1, ge=1, le=1_000_000)
    seed: int = Field(default=7, ge=0)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Which old bar of an instrument stands at each new time, and whether it is turned round.

    Parameters
    ----------
    source : (n_bars,) int64
        Row of the old bar; each row once.
    ts_init : (n_bars,) int64
        New closes, ascending.
    mirrored : (n_bars,) bool
        Whether a rise becomes a fall.
    """

    source: Int64Array
    ts_init: Int64Array
    mirrored: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Rebuilt:
    """Bars at their new places, and the old close before each old bar and its new counterpart."""

    bars: BarArrays
    reference: Float64Array
    old_reference: Float64Array


def p_value(observed: float, null: Sequence[float] | Float64Array) -> float:
    """Return the chance of a result at least as high where nothing can be foretold.

    Parameters
    ----------
    observed : float
        Result on the real market; higher is better.
    null : (n_runs,) float64
        The same on the null markets.

    Returns
    -------
    float
        ``(1 + number at least as high) / (1 + n_runs)``, never zero: Phipson and Smyth (2010).

    Raises
    ------
    DataError
        If there is no null run, or a result is not finite: leaving out runs would bend the
        result. Decide what a run without trades is worth (usually 0) before calling.
    """
    values = np.asarray(null, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise DataError(f"null must hold at least one run, had the shape {values.shape}")
    if not np.isfinite(observed) or not np.isfinite(values).all():
        wrong = observed if not np.isfinite(observed) else values[~np.isfinite(values)][0]
        raise DataError(
            f"results must be finite, one was {wrong}; say what a run without a value is worth"
        )
    return (1.0 + int(np.sum(values >= observed))) / (1.0 + len(values))


def phase_randomised(values: Float64Array, random: np.random.Generator) -> Float64Array:
    """Return series with the same amplitudes and new phases, the same for all columns.

    Parameters
    ----------
    values : (n_steps, n_series) float64
        Evenly spaced in time.
    random : Generator
        What the phases are drawn from, uniformly.

    Returns
    -------
    (n_steps, n_series) float64
        With each series' mean, power spectrum (hence autocorrelation, going round at the end) and
        all cross-spectra: Theiler et al. (1992), algorithm 1, with the common phases of Prichard
        and Theiler (1994).
    """
    n = len(values)
    spectrum = np.fft.rfft(values, axis=0)
    turn = np.exp(2j * np.pi * random.random(len(spectrum)))
    # The mean stays; the highest frequency of an even length must stay real.
    turn[0] = 1.0
    if n % 2 == 0:
        turn[-1] = 1.0 if random.random() < 0.5 else -1.0
    return np.asarray(np.fft.irfft(spectrum * turn[:, None], n, axis=0))


def null_panel(
    panel: Panel, config: NullConfig, *, price_decimals: Mapping[str, int] | None = None
) -> Panel:
    """Return a market like a panel's in which directions cannot be foretold.

    Parameters
    ----------
    panel : Panel
        The real market.
    config : NullConfig
        What to make.
    price_decimals : mapping of str to int, optional
        Decimals of each instrument's prices: a replay refuses more. Not rounded if absent.

    Returns
    -------
    Panel
        The same instruments over the same times, marked synthetic; its data hash names the real
        one, kind and seed, so that no cache takes one for the other. Prices begin at the first
        open. Every bar is valid: high and low enclose open and close. Base volume is unchanged,
        quote volume goes with the price.

    Raises
    ------
    DataError
        If a price is not positive, or becomes zero when rounded.

    Notes
    -----
    Bars trade places only while the same instruments are listed: a bar from before an instrument's
    first, or after its last, stays on its side. A single missing bar moves with its neighbours.
    ``phase`` is the amplitude-adjusted version (Theiler et al., 1992, algorithm 2): ranks of the
    returns become a normal series, its phases are drawn anew, and bars are put into the order of
    the result. Amplitudes of that normal series are kept exactly, those of returns nearly.
    """
    random = np.random.default_rng(config.seed)
    slots = np.unique(np.concatenate([bars.ts_init for bars in panel.bars]))
    makers = {"block_shuffle": _shuffled, "random_sign": _signed, "phase": _rephased}
    plans = makers[config.kind](panel.bars, slots, config, random)
    names = panel.instruments()
    rebuilt = {
        name: _rebuild(bars, plan)
        for name, bars, plan in zip(names, panel.bars, plans, strict=True)
    }
    by_name = dict(zip(names, plans, strict=True))
    old = dict(zip(names, panel.bars, strict=True))
    flow = {
        name: _move_flow(one, old[name], by_name[name], rebuilt[name])
        for name, one in panel.flow.items()
    }
    minutes = {
        name: _move_minutes(one, old[name], by_name[name], rebuilt[name])
        for name, one in panel.minutes.items()
    }
    bars = {name: one.bars for name, one in rebuilt.items()}
    if price_decimals is not None:
        bars = {name: _rounded(one, price_decimals) for name, one in bars.items()}
        minutes = {name: _rounded(one, price_decimals) for name, one in minutes.items()}
    block = f":{config.block_bars}" if config.kind == "block_shuffle" else ""
    return replace(
        panel,
        bars=tuple(bars[name] for name in names),
        flow=flow,
        minutes=minutes,
        data_hash=f"{panel.data_hash}#null:{config.kind}{block}:{config.seed}",
        synthetic=True,
    )


# -- which bar goes where ------------------------------------------------------------------------


def _stretches(bars: Sequence[BarArrays], slots: Int64Array) -> list[slice]:
    """Return the stretches of time in which the same instruments are listed, as slices of slots."""
    edges = {0, len(slots)}
    for one in bars:
        if len(one):
            edges.add(int(np.searchsorted(slots, one.ts_init[0])))
            edges.add(int(np.searchsorted(slots, one.ts_init[-1])) + 1)
    ordered = sorted(edges)
    return [slice(a, b) for a, b in itertools.pairwise(ordered)]


def _unmoved(bars: BarArrays) -> _Plan:
    rows = np.arange(len(bars))
    return _Plan(rows, bars.ts_init, np.zeros(len(bars), dtype=np.bool_))


def _shuffled(
    bars: Sequence[BarArrays], slots: Int64Array, config: NullConfig, random: np.random.Generator
) -> list[_Plan]:
    order = np.arange(len(slots))
    for part in _stretches(bars, slots):
        order[part] = part.start + block_order(part.stop - part.start, config.block_bars, random)
    # Where each old slot goes to.
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    plans = []
    for one in bars:
        new = place[np.searchsorted(slots, one.ts_init)]
        source = np.argsort(new)
        plans.append(replace(_unmoved(one), source=source, ts_init=slots[new[source]]))
    return plans


def block_order(n: int, block: int, random: np.random.Generator) -> Int64Array:
    """Return the rows 0 to n - 1 in blocks of neighbours, the blocks in random order, (n,).

    The first block is shorter by a random number of rows, so that blocks begin elsewhere each
    time.
    """
    first = int(random.integers(1, block + 1))
    blocks = np.split(np.arange(n), np.arange(first, n, block)) if n > first else [np.arange(n)]
    return np.concatenate([blocks[place] for place in random.permutation(len(blocks))])


def _signed(
    bars: Sequence[BarArrays], slots: Int64Array, config: NullConfig, random: np.random.Generator
) -> list[_Plan]:
    coin = random.random(len(slots)) < 0.5
    return [
        replace(_unmoved(one), mirrored=coin[np.searchsorted(slots, one.ts_init)]) for one in bars
    ]


def _rephased(
    bars: Sequence[BarArrays], slots: Int64Array, config: NullConfig, random: np.random.Generator
) -> list[_Plan]:
    places = [np.searchsorted(slots, one.ts_init) for one in bars]
    returns = [np.log(one.close / _references(one)) for one in bars]
    sources = [np.arange(len(one)) for one in bars]
    for part in _stretches(bars, slots):
        length = part.stop - part.start
        if length < MIN_SLOTS:
            continue
        scores = np.zeros((length, len(bars)))
        rows = [np.flatnonzero((at >= part.start) & (at < part.stop)) for at in places]
        ranked = [_by_size(returns[i][own], random) for i, own in enumerate(rows)]
        for i, own in enumerate(rows):
            scores[places[i][own][ranked[i]] - part.start, i] = _normal_scores(len(own))
        new = phase_randomised(scores, random)
        for i, own in enumerate(rows):
            order = np.argsort(new[places[i][own] - part.start, i], kind="stable")
            sources[i][own[order]] = own[ranked[i]]
    return [
        replace(_unmoved(one), source=source) for one, source in zip(bars, sources, strict=True)
    ]


def _by_size(values: Float64Array, random: np.random.Generator) -> Int64Array:
    """Return the rows in ascending order, equal values in random order: time must not show."""
    return np.lexsort((random.random(len(values)), values)).astype(np.int64)


def _normal_scores(n: int) -> Float64Array:
    from scipy.special import ndtri

    return np.asarray(ndtri((np.arange(n) + 0.5) / n), dtype=np.float64)


# -- bars at their new places --------------------------------------------------------------------


def _references(bars: BarArrays) -> Float64Array:
    """Return the close before each bar, for the first its own open, (n_bars,)."""
    return np.concatenate([bars.open[:1], bars.close[:-1]])


def _rebuild(bars: BarArrays, plan: _Plan) -> _Rebuilt:
    columns = np.stack([bars.open, bars.high, bars.low, bars.close])
    if not (columns > 0.0).all():
        row = int(np.argwhere(~(columns > 0.0))[0][1])
        raise DataError(
            f"prices of {bars.instrument_id} must be positive to be put in another order, one was "
            f"not at {format_time(int(bars.ts_init[row]))}; correct the data or leave the bar out"
        )
    before = _references(bars)
    steps = np.log(columns / before)
    drift = float(steps[3].mean()) if len(bars) else 0.0
    steps = steps[:, plan.source]
    turned = -steps[[0, 2, 1, 3]]
    # What falls where it rose would take the drift away, and a long position would look like skill.
    turned[3] += 2.0 * drift
    steps = np.where(plan.mirrored, turned, steps)
    first = np.log(bars.open[:1])
    path = np.cumsum(np.concatenate([first, steps[3]]))[: len(bars)]
    opened, high, low, close = np.exp(path + steps)
    new = replace(
        bars,
        ts_init=plan.ts_init,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=bars.volume[plan.source],
    )
    return _Rebuilt(_enclosed(new), np.exp(path), before)


def _enclosed(bars: BarArrays) -> BarArrays:
    """Return bars whose high and low enclose open and close, which rounding may have undone."""
    return replace(
        bars,
        high=np.maximum(bars.high, np.maximum(bars.open, bars.close)),
        low=np.minimum(bars.low, np.minimum(bars.open, bars.close)),
    )


def _rounded(bars: BarArrays, decimals: Mapping[str, int]) -> BarArrays:
    """Return bars on the grid of their instrument's decimals; rounding keeps them valid."""
    name = bars.instrument_id
    if name not in decimals:
        raise DataError(f"price_decimals must name every instrument, lacks {name}")
    scale = 10.0 ** decimals[name]
    columns = {
        field: np.rint(getattr(bars, field) * scale) / scale
        for field in ("open", "high", "low", "close")
    }
    if len(bars) and not columns["low"].min() > 0.0:
        raise DataError(
            f"prices of {name} must stay positive with {decimals[name]} decimals, fell to 0; take "
            "another seed or a shorter span"
        )
    return replace(bars, **columns)


def _target(plan: _Plan, n_bars: int) -> Int64Array:
    """Return the new row of each old bar, (n_bars,)."""
    target = np.empty(n_bars, dtype=np.int64)
    target[plan.source] = np.arange(n_bars)
    return target


def _owners(bars: BarArrays, closes: Int64Array) -> tuple[NDArray[np.bool_], Int64Array]:
    """Return which records belong to a bar that exists, and the rows of those bars."""
    row = np.searchsorted(bars.ts_init, closes)
    known = row < len(bars)
    known[known] = bars.ts_init[row[known]] == closes[known]
    return known, row[known].astype(np.int64)


def _move_flow(flow: FlowArrays, bars: BarArrays, plan: _Plan, new: _Rebuilt) -> FlowArrays:
    """Move order flow with its bars; where a bar is turned round, buyers become sellers."""
    known, old_row = _owners(bars, flow.ts_init)
    row = _target(plan, len(bars))[old_row]
    order = np.argsort(row)
    old_row, row = old_row[order], row[order]
    taken = np.flatnonzero(known)[order]
    scale = new.bars.close[row] / bars.close[old_row]
    quote, bought = flow.quote_volume[taken], flow.taker_buy_quote_volume[taken]
    base, volume = flow.taker_buy_volume[taken], bars.volume[old_row]
    turned = plan.mirrored[row]
    return replace(
        flow,
        ts_init=plan.ts_init[row],
        quote_volume=quote * scale,
        trade_count=flow.trade_count[taken],
        taker_buy_volume=np.where(turned, np.maximum(volume - base, 0.0), base),
        taker_buy_quote_volume=np.where(turned, np.maximum(quote - bought, 0.0), bought) * scale,
    )


def _move_minutes(minutes: BarArrays, bars: BarArrays, plan: _Plan, new: _Rebuilt) -> BarArrays:
    """Move the minutes of each bar with it, at prices that follow the new close before it."""
    length = bars.interval_ns
    closes = (minutes.ts_init + length - 1) // length * length
    known, old_row = _owners(bars, closes)
    row = _target(plan, len(bars))[old_row]
    ts = minutes.ts_init[known] + plan.ts_init[row] - closes[known]
    order = np.argsort(ts)
    turned, ts = plan.mirrored[row][order], ts[order]
    taken, row, old_row = np.flatnonzero(known)[order], row[order], old_row[order]
    columns = np.stack([minutes.open, minutes.high, minutes.low, minutes.close])[:, taken]
    steps = np.log(columns / new.old_reference[old_row])
    steps = np.where(turned, -steps[[0, 2, 1, 3]], steps)
    opened, high, low, close = new.reference[row] * np.exp(steps)
    moved = replace(
        minutes,
        ts_init=ts,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=minutes.volume[taken],
    )
    return _enclosed(moved)

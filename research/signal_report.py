"""A signal's quality as a page of Markdown: nothing is computed here but what is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from research.signal_results import POOLED, SignalQuality

PICTURES = {
    "horizons": "Information coefficient by horizon",
    "delays": "Decay: the same, entered late",
    "quantiles": "Mean return by quantile of the signal",
    "turnover": "How much of the signal stays",
    "months": "Information coefficient by month",
}
"""Names of `research.signal_plots.signal_pictures`, in the order of the page, and their titles."""


def picture_name(kind: str) -> str:
    """Return the file name of a picture beside the page, such as ``signal-horizons.png``."""
    return f"signal-{kind}.png"


def signal_markdown(quality: SignalQuality, about: Mapping[str, Any]) -> str:
    """Return the page.

    Parameters
    ----------
    quality : SignalQuality
        What was measured.
    about : mapping
        profile, instruments, interval, from, to, synthetic, version, cost_bps (of a round trip).
    """
    horizon = quality.config.horizon_bars
    parts = [
        "# What the signal is worth before anything trades",
        *(["", "**SYNTHETIC DATA**"] if about["synthetic"] else []),
        "",
        f"Signal `{quality.column}` of profile `{about['profile']}`: "
        f"{', '.join(about['instruments'])}, bars of {about['interval']}, {about['from']} to "
        f"{about['to']}, version {about['version']}.",
        "",
        *summary_lines(quality, float(about["cost_bps"])),
        "",
        "Returns run from the next open to the open so many bars later. Ranks are those within "
        "each instrument; `cross-section` ranks the instruments against each other at each time. "
        "Brackets hold the central 95 % of a stationary bootstrap over whole days, in blocks of at "
        "least twice the horizon; p-values are those of daily sums with a long-run variance over "
        "the horizon, corrected by Holm's method within the row.",
        "",
        *_information(quality, "information", "horizon_bars", "bars held"),
        *_picture("horizons"),
        *_information(quality, "delays", "delay_bars", f"bars late ({horizon} held)"),
        *_picture("delays"),
        *_spreads(quality),
        *_picture("quantiles"),
        *_turnover(quality),
        *_picture("turnover"),
        *_picture("months"),
    ]
    return "\n".join(parts).rstrip() + "\n"


def summary_lines(quality: SignalQuality, cost_bps: float) -> list[str]:
    """Return what the tables say, in a few sentences.

    Parameters
    ----------
    quality : SignalQuality
        What was measured.
    cost_bps : float
        Of a round trip, to hold half of the spread against.
    """
    horizon = quality.config.horizon_bars
    own = next(row for row in quality.delays if row.scope == POOLED and row.delay_bars == 0)
    best = max(
        (row for row in quality.information if row.scope == POOLED),
        key=lambda row: -math.inf if math.isnan(row.ic.value) else row.ic.value,
    )
    months = quality.months
    above = sum(row.ic > 0.0 for row in months)
    return [
        f"- Information coefficient over {horizon} bars, the model's horizon: {own.ic} "
        f"({_chance(own.p)}); above zero in {above} of {len(months)} months.",
        f"- Largest over {best.horizon_bars} bars: {best.ic}.",
        f"- Decay: {_half_life(quality.half_life_bars, quality.config.delays_bars[-1])}.",
        *_spread_line(quality, cost_bps),
    ]


def _spread_line(quality: SignalQuality, cost_bps: float) -> list[str]:
    pooled = [row for row in quality.quantiles if row.scope == POOLED]
    top, bottom = pooled[-1].mean_bps, pooled[0].mean_bps
    spread = top.value - bottom.value
    verdict = "more" if spread / 2.0 > cost_bps else "less"
    return [
        f"- Highest less lowest of {len(pooled)} quantiles, over {quality.config.horizon_bars} "
        f"bars: {spread:.1f} bps; a trade of one side earns about half, {spread / 2.0:.1f} bps, "
        f"{verdict} than the {cost_bps:.1f} bps of a round trip.",
    ]


def _chance(p: float) -> str:
    if math.isnan(p):
        return "too few days for a test"
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def _half_life(bars: float, last: int) -> str:
    if math.isnan(bars):
        return "there is nothing to lose"
    if math.isinf(bars):
        return f"more than half is left {last} bars late"
    return f"half is gone when entered {bars:.1f} bars late"


def _information(quality: SignalQuality, table: str, along: str, title: str) -> list[str]:
    rows = getattr(quality, table)
    steps = list(dict.fromkeys(getattr(row, along) for row in rows))
    scopes = list(dict.fromkeys(row.scope for row in rows))
    cells = []
    for scope in scopes:
        own = {getattr(row, along): row for row in rows if row.scope == scope}
        shown = [
            f"{own[step].ic}{'*' if own[step].p_holm < 0.05 else ''}" if own[step].n else ""
            for step in steps
        ]
        cells.append([scope, *shown])
    head = "## Information coefficient" if table == "information" else "## Decay"
    starred = "A star marks a corrected p-value below 0.05."
    return [head, "", *_table([title, *map(str, steps)], cells), "", starred, ""]


def _spreads(quality: SignalQuality) -> list[str]:
    horizons = list(dict.fromkeys(row.horizon_bars for row in quality.spreads))
    scopes = list(dict.fromkeys(row.scope for row in quality.spreads))
    spreads = {(row.scope, row.horizon_bars): row for row in quality.spreads}
    cells = [[scope, *(str(spreads[scope, h].spread_bps) for h in horizons)] for scope in scopes]
    n = quality.config.quantiles
    means = [
        [scope, *(str(row.mean_bps) for row in quality.quantiles if row.scope == scope)]
        for scope in scopes
    ]
    return [
        f"## Highest less lowest of {n} quantiles [bps]",
        "",
        *_table(["bars held", *map(str, horizons)], cells),
        "",
        f"Mean return over {quality.config.horizon_bars} bars by quantile [bps]:",
        "",
        *_table(["quantile", *map(str, range(1, n + 1))], means),
        "",
    ]


def _turnover(quality: SignalQuality) -> list[str]:
    rows = [row for row in quality.turnover if row.scope == POOLED]
    cells = [[str(row.lag_bars), *(_plain(value) for value in row[2:])] for row in rows]
    header = ["lag [bars]", "rank autocorrelation", "new in the highest", "new in the lowest"]
    return ["## Turnover", "", *_table(header, cells), ""]


def _plain(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _picture(kind: str) -> list[str]:
    return [f"![{PICTURES[kind]}]({picture_name(kind)})", ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Luck: how good the best of many worthless rules looks, and what gives it away
#
# Whoever tries enough finds something. This notebook makes rules that know nothing, picks the best
# of them, and hands it to the judges that LeviBot puts every result before: the deflated Sharpe
# ratio, the probability of backtest overfitting, a bootstrap test and markets without anything to
# find ([docs/luck.md](../docs/luck.md)). Then it hands them a rule that is good, because a judge
# who always says no is no judge.
#
# The market is real where `../shared/data` is present; otherwise it is made up and marked SYNTHETIC
# wherever it is shown. The rules are made up in any case. To look at a catalog of yours:
# `LEVIBOT_CATALOG=data/catalog make run-notebooks ARGS=05_overfitting` (it holds the span below).

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from adapters.importing import import_path
from adapters.synthetic import SyntheticConfig, generate
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, format_time, parse_time
from research.cscv import backtest_overfitting
from research.data_snooping import superior_ability
from research.null_test import NullConfig, null_panel, p_value
from research.overfitting import (
    SharpeMoments,
    deflated_sharpe,
    expected_maximum,
    minimum_backtest_length,
    minimum_track_record,
)
from research.panel import load_panel
from research.planted_overfit import MEMORY_DAYS, plant_overfit
from research.plots import BLUE, COLOURS, GREY, ORANGE, STYLE, date_numbers, time_axis
from research.trial_ledger import TrialLedger
from research.trials import Trial, TrialData, TrialResults
from research.validation_plots import null_figure, overfitting_figure

# The validation's figures are made without pyplot; this shows them.
# %matplotlib inline
pd.set_option("display.max_colwidth", None)
plt.rcParams.update(STYLE | {"figure.dpi": 90, "figure.titlesize": 10.0})
YEAR = np.sqrt(365.0)

# %%
SHARED = Path(os.environ.get("LEVIBOT_SHARED_DATA", "../../shared/data"))
COINS = ("BTCUSDT-PERP.BINANCE", "ETHUSDT-PERP.BINANCE")
START, END = "2023-01-01", "2025-05-17"
folder = tempfile.TemporaryDirectory(prefix="levibot-")
given = os.environ.get("LEVIBOT_CATALOG")
if given:
    catalog = Catalog.open(Path("..", given))
else:
    catalog = Catalog.open(folder.name, create=True)
    if SHARED.is_dir():
        for coin in ("BTC", "ETH"):
            import_path(SHARED / f"bars/perp/{coin}_USDT_USDT-15m-futures.feather", catalog)
    else:
        made_up = SyntheticConfig(start=START, end=END, instruments=COINS, news_per_day=0.0)
        catalog.ingest(generate(made_up))
panel = load_panel(catalog, COINS, "15m", parse_time(START), parse_time(END))
SYNTHETIC = "SYNTHETIC " if panel.synthetic else ""
bars = panel.bars[0]
midnight = bars.ts_init % NS_PER_DAY == 0
days, closes = bars.ts_init[midnight][1:], bars.close[midnight]
market = closes[1:] / closes[:-1] - 1.0
print(f"{SYNTHETIC}{bars.instrument_id}: {len(market)} days from {format_time(int(days[0]))[:10]}")

# %% [markdown]
# ## A thousand coins
#
# Each rule throws a coin every midnight: heads it is long for a day, tails it is short. Trading is
# free. Not one of them knows anything, and on the left is what their Sharpe ratios look like.
#
# On the right is the best of the first so many, for twenty different thousands. The line is what
# `expected_maximum` says of it: the best of *N* lucky ones has an expected ratio that grows with
# *N*, and nothing about the market is needed to know it.

# %%
random = np.random.default_rng(7)
N_RULES = 1_000
counts = np.unique(np.geomspace(1, N_RULES, 40).astype(int))
best, coins = [], np.empty(0)
for _ in range(20):
    coins = np.where(random.random((len(market), N_RULES)) < 0.5, -1.0, 1.0) * market[:, None]
    ratios = coins.mean(axis=0) / coins.std(axis=0, ddof=1)
    best.append(YEAR * np.maximum.accumulate(ratios)[counts - 1])
spread = float(ratios.std(ddof=1))
luck = [YEAR * spread * expected_maximum(count) for count in counts]
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.1), layout="constrained")
left.hist(YEAR * ratios, bins=40, color=BLUE, alpha=0.7, linewidth=0.0)
left.axvline(YEAR * ratios.max(), color=ORANGE, linewidth=1.6)
left.set(xlabel="Sharpe ratio a year; the line is the best", ylabel="rules")
left.set_title(f"{SYNTHETIC}a thousand coins")
for line in best:
    right.plot(counts, line, color=GREY, linewidth=0.7, alpha=0.6)
right.plot(counts, luck, color=ORANGE, linewidth=2.0, label="expected of luck")
right.set(xscale="log", xlabel="rules tried", ylabel="best Sharpe ratio a year")
right.set_title("the best so far")
_ = right.legend(loc="upper left")

# %% [markdown]
# So a backtest must be long for the number of things that were tried. These are the years of daily
# returns below which luck alone is expected to show an annual Sharpe ratio of 1, 2 or 3, and how
# much record a ratio needs by itself to be told from zero at 95 %, if returns were normal:

# %%
TRIED = (2, 10, 100, 1_000, 10_000)
lengths = pd.DataFrame(
    {
        f"Sharpe {ratio:g}": [f"{minimum_backtest_length(n, ratio):.1f}" for n in TRIED]
        for ratio in (1.0, 2.0, 3.0)
    },
    index=pd.Index([f"{n:,} tried" for n in TRIED], name="years"),
)
alone = [minimum_track_record(SharpeMoments(2, ratio / YEAR)) / 365.0 for ratio in (1.0, 2.0, 3.0)]
lengths.loc["one, told from zero"] = [f"{years:.1f}" for years in alone]
lengths

# %% [markdown]
# ## A hundred rules, tuned on the span that they are shown on
#
# Coins are crude. The rules below bet on tomorrow by a weighting of the ten days before, as many a
# strategy does. Each is drawn fifty times and the luckiest draw is kept: that is what tuning on the
# test span is. All hundred now look well, and the best looks like a career.

# %%
planted = plant_overfit(market, rules=100, tunings=50, seed=7)
shown = date_numbers(days[MEMORY_DAYS:])
wealth = np.cumprod(1.0 + planted.returns, axis=0)
figure, axes = plt.subplots(figsize=(8.0, 3.2), layout="constrained")
axes.plot(shown, wealth, color=GREY, linewidth=0.5, alpha=0.35)
axes.plot([], [], color=GREY, linewidth=1.0, label="the hundred")
held = np.cumprod(1.0 + market[MEMORY_DAYS:])
axes.plot(shown, held, color=ORANGE, linewidth=1.3, label=f"holding {bars.instrument_id}")
axes.plot(shown, wealth[:, planted.best], color=BLUE, linewidth=1.8, label="the best")
axes.set(yscale="log", ylabel="wealth, start = 1", xlabel="time (UTC)")
axes.set_yticks([0.5, 1.0, 2.0, 5.0, 10.0], ["0.5", "1", "2", "5", "10"])
axes.minorticks_off()
axes.set_title(f"{SYNTHETIC}market; rules without any knowledge, tuned until they look well")
time_axis(axes)
_ = axes.legend(loc="upper left")

# %% [markdown]
# What its inventor says, and what one says who knows how often it was tried:


# %%
def judged(deflated):
    """Return a deflated Sharpe ratio in annual numbers."""
    return {
        "trials": f"{deflated.trials:,.0f}",
        "Sharpe a year": f"{YEAR * deflated.sharpe:.2f}",
        "luck alone would show": f"{YEAR * deflated.threshold:.2f}",
        "deflated Sharpe ratio": f"{deflated.value:.3f}",
        "claim (above 0.95)": "yes" if deflated.value > 0.95 else "no",
    }


pd.DataFrame(
    {
        "as if it were the only one": judged(planted.naive),
        "all draws counted": judged(planted.honest),
    }
).T.rename_axis(f"{SYNTHETIC}the best rule")

# %% [markdown]
# ## The other judge cuts the span in halves
#
# Combinatorially symmetric cross-validation (Bailey et al., 2015) takes every way to choose half of
# sixteen groups of days, looks up which rule is best there, and asks how it did on the other half.
# Left: where it landed among the others (0 is the median, left of it is worse than the median).
# The share at or below 0 is the **probability of backtest overfitting**. Right: **degradation**;
# the better a rule looked where it was chosen, the worse it was on the other half, because the
# luck of a span that all were tuned on is used up.

# %%
probability = planted.probability
NAMES = ("logits", "in_sample", "out_of_sample", "slope", "intercept")
figure = overfitting_figure({name: getattr(probability, name) for name in NAMES})
figure.suptitle(f"{SYNTHETIC}tuned rules: PBO {probability.value:.2f}")
figure

# %%
assert planted.is_exposed
print(
    f"PBO {probability.value:.2f} (above 0.5), deflated Sharpe ratio {planted.honest.value:.3f} "
    "(below 0.95): exposed by both"
)

# %% [markdown]
# ## A judge who can say yes
#
# The same coins, but one of a hundred now knows a little: it earns 0.15 of a day's standard
# deviation more, an annual Sharpe ratio of about 3. Now the best of one half is the best of the
# other, and its ratio is above what luck would show. The third judge, Hansen's test for superior
# predictive ability (SPA), resamples blocks of days and asks whether the best of all is above zero
# by more than luck. It must be shown *everything* that was tried: of the tuned rules it sees only
# the hundred that were kept, and is fooled where the draws that were thrown away are not counted.

# %%
worthless = coins[:, :100]
skilled = worthless.copy()
skilled[:, 42] += 0.15 * market.std() - worthless[:, 42].mean()
CASES = {
    "a hundred coins": (worthless, 100),
    "a hundred tuned rules": (planted.returns, planted.tried),
    "one that knows among coins": (skilled, 100),
}
rows = {}
for name, (returns, tried) in CASES.items():
    ratio = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
    own = planted.honest.spread if tried == planted.tried else float(ratio.std(ddof=1))
    moments = SharpeMoments.of(returns[:, int(ratio.argmax())])
    halves = backtest_overfitting(returns)
    columns = tuple(f"rule {number}" for number in range(returns.shape[1]))
    rows[name] = {
        "best": columns[int(ratio.argmax())],
        "Sharpe a year": f"{YEAR * ratio.max():.2f}",
        "deflated Sharpe ratio": f"{deflated_sharpe(moments, trials=tried, spread=own).value:.3f}",
        "PBO": f"{halves.value:.2f}",
        "slope of degradation": f"{halves.slope:.2f}",
        "loss on the other half": f"{halves.probability_of_loss:.0%}",
        "SPA p": f"{superior_ability(returns, columns).consistent:.3f}",
    }
pd.DataFrame(rows).T.rename_axis(f"{SYNTHETIC}market")

# %% [markdown]
# ## Who counts? The ledger
#
# Nobody remembers how often they tried. LeviBot does: every walk-forward, backtest, study and
# tuning trial is recorded beside the data, and the deflated Sharpe ratio of a result takes number
# and spread of all trials on overlapping data from there. Here the best of a hundred coins is
# deflated while the others are recorded one after the other. Recording one twice changes nothing.

# %%
ledger = TrialLedger(Path(folder.name, "notebook", "trials.jsonl"))
span = TrialData(panel.data_hash, COINS[:1], "15m", int(days[0]), int(days[-1]), panel.synthetic)


def trial_of(number):
    """Return the trial of a coin."""
    earned = float(np.prod(1.0 + worthless[:, number])) - 1.0
    results = TrialResults.of_returns(worthless[:, number], net_return=earned)
    return Trial({"name": "notebook"}, "coin", {"coin": number}, span, "notebook", number, results)


order = np.argsort(-worthless.mean(axis=0) / worthless.std(axis=0, ddof=1))[:1]
chosen = trial_of(int(order[0]))
others = [trial_of(number) for number in range(100) if number != order[0]]
ledger.append([chosen])
path = []
for count in (1, 2, 3, 5, 10, 20, 50, 100):
    ledger.append(others[: count - 1])
    path.append(ledger.trials_for((span.start, span.end), COINS, chosen).deflated(chosen.results))
figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
known = [one.trials.count for one in path]
axes.plot(known, [one.deflated.value for one in path], "o-", color=BLUE, markersize=4.0)
axes.axhline(0.95, color=ORANGE, linewidth=1.6, label="above: a claim")
axes.set(xscale="log", xlabel="trials in the ledger", ylabel="deflated Sharpe ratio")
axes.set_xticks(known, [str(count) for count in known])
axes.minorticks_off()
axes.set_ylim(0.0, 1.02)
axes.set_title(f"{SYNTHETIC}the same result, as the ledger learns of the others")
_ = axes.legend(loc="lower left")

# %% [markdown]
# ## Markets with nothing to find
#
# The last question is not about one rule but about the whole procedure: what does it find where
# there is nothing? Null markets are made of the real one. **Block shuffle** puts the bars of all
# instruments into another order, the same for all; **random sign** turns whole bars round by a
# coin; **phase** keeps the power spectrum and draws the phases anew (Theiler et al., 1992).

# %%
quarter = parse_time("2025-01-01")
recent = load_panel(catalog, COINS, "15m", quarter, parse_time(END))
KINDS = ("block_shuffle", "random_sign", "phase")
nulls = {kind: null_panel(recent, NullConfig(kind=kind, seed=3)) for kind in KINDS}


def lagged(values):
    """Return the correlation of each value with the one before."""
    return np.corrcoef(values[1:], values[:-1])[0, 1]


figure, axes = plt.subplots(figsize=(8.0, 3.0), layout="constrained")
told = {}
for (name, one), colour in zip({"as it was": recent, **nulls}.items(), COLOURS, strict=False):
    first, second = (np.diff(np.log(each.close)) for each in one.bars)
    told[name] = {
        "deviation of a bar [bp]": f"{1e4 * first.std():.1f}",
        "correlation of the two": f"{np.corrcoef(first, second)[0, 1]:.2f}",
        "return with the one before": f"{lagged(first):+.3f}",
        "size with the one before": f"{lagged(np.abs(first)):+.3f}",
    }
    hourly = slice(3, None, 4)
    own = one.bars[0]
    shown = date_numbers(own.ts_init[hourly])
    axes.plot(shown, own.close[hourly], color=colour, linewidth=1.0, label=name)
axes.set(ylabel="close [USDT]", xlabel="time (UTC)")
axes.set_title(f"{SYNTHETIC}{COINS[0]} and null markets")
time_axis(axes)
axes.legend(loc="upper right", ncols=2, fontsize=7.5)
pd.DataFrame(told).T.rename_axis(f"{SYNTHETIC}{COINS[0]}")

# %% [markdown]
# A rule as simple as can be: hold for one bar what goes against the last one, on both instruments.
# Is there anything in it? Its Sharpe ratio on the real market among those on ninety-nine shuffled
# markets says so, with a p-value that is never zero (Phipson and Smyth, 2010). And does it pay? The
# middle takes 5 basis points for each unit that changes hands. On the right another question: does
# a large move follow a large one?


# %%
def reversal(one, cost_bps=0.0):
    """Return the annual Sharpe ratio of betting against the last bar, by day."""
    earned = []
    for each in one.bars:
        steps = each.close[1:] / each.close[:-1] - 1.0
        side = -np.sign(steps[:-1])
        turnover = np.abs(np.diff(side, prepend=0.0))
        earned.append(side * steps[1:] - 1e-4 * cost_bps * turnover)
    daily = np.mean(earned, axis=0)
    daily = daily[: len(daily) // 96 * 96].reshape(-1, 96).sum(axis=1)
    return float(YEAR * daily.mean() / daily.std(ddof=1))


drawn = [null_panel(recent, NullConfig(seed=seed)) for seed in range(99)]
MEASURES = {
    "gross_sharpe": reversal,
    "net_sharpe": lambda one: reversal(one, 5.0),
    "size with the one before": lambda one: lagged(np.abs(np.diff(np.log(one.bars[0].close)))),
}
observed = {name: measure(recent) for name, measure in MEASURES.items()}
found = {name: [measure(one) for one in drawn] for name, measure in MEASURES.items()}
p_values = {name: p_value(observed[name], found[name]) for name in observed}
figure = null_figure(found, observed, p_values)
figure.suptitle(f"{SYNTHETIC}betting against the last bar: real market (line) and null markets")
figure

# %% [markdown]
# In the real data of these months the bet knows nothing: the real market lies among the null ones,
# and after costs it loses as they do. That size follows size is there beyond doubt, with the least
# p-value that ninety-nine markets allow; and it says nothing about direction. A small p-value says
# that something is there. It does not say that it pays.
#
# `levibot validate` does all of this to a run, with the whole pipeline on each null market;
# `levibot truth` does it to LeviBot itself, on made-up markets with and without an edge, and counts
# false claims. And it all begins with [04_walkforward](04_walkforward.ipynb).

# %%
folder.cleanup()

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
# # Walking forward: what a fold is, and what one path is worth against five
#
# A model is worth what it says about bars that it has not seen. This notebook cuts a span into
# folds, shows which rows are taken out so that nothing of the test leaks into the training, walks
# forward once with a small model, reads the result as a sceptic would, and then asks how much of it
# is owed to where the folds happen to lie ([docs/validation.md](../docs/validation.md)).
#
# The model is small and the span short, so that this runs in about a minute. It is no reference
# result, and **nothing here was chosen to look well**: most strategies do not survive this page.
#
# It imports a few files of real market data from `../shared/data` where they are present, and
# otherwise makes a market of its own with a planted edge, which is marked SYNTHETIC wherever it is
# shown. To look at a catalog of yours: `LEVIBOT_CATALOG=data/catalog make run-notebooks
# ARGS=04_walkforward` (it must hold the span below; what is tried here counts in its ledger).

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
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, format_time
from live.pipeline import load_market, run_walkforward
from live.profile import load_profile
from live.replay_jobs import earned
from live.tearsheets import read_sheet
from research.cpcv import CpcvConfig, cpcv_splits, cross_validate
from research.performance import daily_equity
from research.plots import BLUE, COLOURS, GREY, ORANGE, STYLE, date_numbers, time_axis
from research.predictor import PrecomputedPredictions
from research.report import estimate_of
from research.run_sheet import RunSheet
from research.sheet_plots import (
    coverage_panel,
    drawn,
    equity_panel,
    folds_panel,
    reliability_panel,
    waterfall_panel,
)
from research.training_table import build_table
from research.walkforward import usable_folds
from strategies.backtest import run_backtest

# The tearsheet's figures are made without pyplot; this shows them.
# %matplotlib inline
pd.set_option("display.max_colwidth", None)
LOOK = STYLE | {"figure.dpi": 90, "figure.titlesize": 10.0}
plt.rcParams.update(LOOK)

# %% [markdown]
# ## The question
#
# The settings are those of the profile `perps-swing`, four hours ahead, but for what is overridden
# here: two instruments, half as many folds, small trees, and an entry threshold so low, without the
# rules that would refuse such trades, that there is something to look at.

# %%
SHARED = Path(os.environ.get("LEVIBOT_SHARED_DATA", "../../shared/data"))
profile = load_profile(
    "perps-swing",
    (
        "data.instruments=[BTCUSDT-PERP.BINANCE, ETHUSDT-PERP.BINANCE]",
        "data.start=2023-09-01",
        "data.end=2024-06-01",
        "features.ratios=[[BTCUSDT-PERP.BINANCE, ETHUSDT-PERP.BINANCE]]",
        "experts.lightgbm={n_trees: 30, num_leaves: 15, learning_rate: 0.1, binning_rows: 10000}",
        "calibration.method=platt",
        "validation.test_start=2024-01-01",
        "validation.n_folds=3",
        "strategy.entry_threshold=0.53",
        "strategy.regime_shift=0.0",
        "strategy.edge_margin_bps=null",
        "strategy.risk=null",
        "threads=2",
    ),
)
data, config = profile.data, profile.walk_forward_config()
folder = tempfile.TemporaryDirectory(prefix="levibot-")
given = os.environ.get("LEVIBOT_CATALOG")
place = Path("..", given) if given else Path(folder.name, "catalog")
if not given:
    catalog = Catalog.open(place, create=True)
    if SHARED.is_dir():
        for coin in ("BTC", "ETH"):
            import_path(SHARED / f"bars/perp/{coin}_USDT_USDT-15m-futures.feather", catalog)
            import_path(SHARED / f"funding/{coin}_USDT_USDT-8h-funding_rate.feather", catalog)
    else:
        span = {"start": format_time(data.start)[:10], "end": format_time(data.end)[:10]}
        made_up = SyntheticConfig(**span, instruments=data.instruments, news_per_day=0.0)
        catalog.ingest(generate(made_up))
market = load_market(profile, place)
SYNTHETIC = "SYNTHETIC " if market.panel.synthetic else ""

# %% [markdown]
# ## What a fold is
#
# Each fold learns from everything before its test block and is judged on the block. The blocks
# follow one another without a gap, so that their predictions make one record as it could have come
# about: nothing is said about a bar by a model that was fitted on a later one.

# %%
table = build_table(market.panel, config)
folds = usable_folds(table, config)
ts_init, ts_end = table.matrix.ts_init, table.labels.ts_end
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(8.0, 3.6), sharex=True, height_ratios=(3, 2), layout="constrained"
)
for bars, colour in zip(market.panel.bars, COLOURS, strict=False):
    daily = slice(95, None, 96)
    level = bars.close[daily] / bars.close[daily][0]
    top.plot(date_numbers(bars.ts_init[daily]), level, color=colour, label=bars.instrument_id)
top.set(ylabel="close, first day = 1", title=f"{SYNTHETIC}daily closes, and who learns from what")
top.legend(loc="upper left", fontsize=7.5)
for fold in folds:
    start, edge, end = (
        t / NS_PER_DAY for t in (ts_init[fold.train].min(), fold.test_start, fold.test_end)
    )
    bottom.barh(fold.index, edge - start, left=start, color="#b6bcc6", height=0.6)
    bottom.barh(fold.index, end - edge, left=edge, color=BLUE, height=0.6)
bottom.plot([], [], color="#b6bcc6", linewidth=6.0, label="learns")
bottom.plot([], [], color=BLUE, linewidth=6.0, label="is tested")
bottom.set_yticks([fold.index for fold in folds], [f"fold {fold.index}" for fold in folds])
bottom.invert_yaxis()
bottom.grid(visible=False, axis="y")
bottom.set_xlabel("time (UTC)")
bottom.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=7.5, ncols=2)
time_axis(bottom)

# %% [markdown]
# ## Purge and embargo
#
# A label looks ahead: whether the price is higher four hours later is known four hours later. A
# row just before the test block has a label made of the block's own prices, so it may not train
# (**purge**). And features have memory: the rows just before the block share most of theirs with
# the first tested ones, so some more bars are left out (**embargo**).
#
# Each line below is a row of one instrument: the dot is when it was known, the line the span that
# its label looks at. None that trains reaches past the dotted line.

# %%
fold = folds[1]
embargo = config.validation.embargo_bars * market.panel.interval_ns
first = table.matrix.instrument == 0
near = np.flatnonzero(first & (np.abs(ts_init - fold.test_start) <= 13 * NS_PER_HOUR))[::2]
kinds = {
    "trains": (np.isin(near, fold.train), GREY),
    "left out": (~np.isin(near, fold.train) & ~np.isin(near, fold.test), ORANGE),
    "is tested": (np.isin(near, fold.test), BLUE),
}
figure, axes = plt.subplots(figsize=(8.0, 3.4), layout="constrained")
for label, (chosen, colour) in kinds.items():
    rows = np.flatnonzero(chosen)
    known, judged = (date_numbers(t[near[rows]]) for t in (ts_init, ts_end))
    axes.hlines(rows, known, judged, color=colour, linewidth=1.2)
    axes.plot(known, rows, "o", color=colour, markersize=3.0, label=label)
axes.axvline(fold.test_start / NS_PER_DAY, color="#111827", linewidth=1.2)
axes.axvline((fold.test_start - embargo) / NS_PER_DAY, color="#111827", lw=1.0, ls=":")
axes.invert_yaxis()
axes.set_yticks([])
axes.set(xlabel="time (UTC)", ylabel="rows, every other one")
axes.set_title(f"{SYNTHETIC}fold {fold.index} begins at the line; dotted: embargo before it")
time_axis(axes)
axes.legend(loc="lower left", fontsize=7.5)
pd.DataFrame(
    {
        "training rows": [f"{len(fold.train):,}" for fold in folds],
        "left out": [fold.purged for fold in folds],
        "last label that trains ends": [format_time(int(ts_end[f.train].max())) for f in folds],
        "test begins": [format_time(fold.test_start) for fold in folds],
        "tested rows": [f"{len(fold.test):,}" for fold in folds],
    },
    index=pd.Index([f"fold {fold.index}" for fold in folds], name=f"{SYNTHETIC}fold"),
)

# %% [markdown]
# ## One walk forward
#
# What `levibot walkforward` does: fit and calibrate fold by fold, replay the predictions in the
# engine with all costs, and write a run, which the parts of its tearsheet below are drawn from.

# %%
run_walkforward(profile, place, Path(folder.name, "run"))
sheet = RunSheet.of(read_sheet(Path(folder.name, "run"), "walk-forward"))
told = sheet.data.metrics
# quantstats, which writes a part of the run's page, has its own ideas of style.
plt.rcParams.update(LOOK)
ROWS = {
    "prediction": ("auc", "accuracy", "accuracy_at_10pct", "log_loss_skill", "ece"),
    "trading": ("net_return", "net_sharpe", "max_drawdown", "trades", "fees", "slippage"),
}
pd.DataFrame(
    [str(estimate_of(told[part][key])) for part, keys in ROWS.items() for key in keys],
    index=pd.Index(
        [f"{part}: {key}" for part, keys in ROWS.items() for key in keys],
        name=f"{SYNTHETIC}out of sample",
    ),
    columns=["value [95 %]"],
)

# %% [markdown]
# **Read the interval before the value.** It comes from resampling whole days that all instruments
# share. AUC ½ and skill 0 are no knowledge; where an interval covers them, nothing was shown. In
# the real data the predictions know a little, and whether the trades earn anything is open.
#
# Equity beside what it is held against: doing nothing, buying and holding, and the same trades at
# other times (the grey band is what a signal without knowledge would have made of them).

# %%
figure = drawn(equity_panel, [sheet], 8.0, 4.2)
figure.suptitle(f"{SYNTHETIC}out of sample, net of all costs")
figure

# %% [markdown]
# Where the result comes from. In the real data the trades earn something before costs, and costs
# take more than that: a skill that is there and does not pay.

# %%
figure = drawn(waterfall_panel, [sheet], 6.0, 2.8)
figure.suptitle(f"{SYNTHETIC}from gross to net")
figure

# %% [markdown]
# Can the probabilities be taken at their word, and are the most confident ones better?

# %%
figure = drawn(reliability_panel, [sheet], 6.4, 4.2)
figure.suptitle(f"{SYNTHETIC}reliability, and how often what was said")
figure

# %%
figure = drawn(coverage_panel, [sheet], 6.4, 2.8)
figure.suptitle(f"{SYNTHETIC}accuracy against coverage")
figure

# %% [markdown]
# ## Fold by fold
#
# A record that one fold made is no record. Each point has its own interval, and with a few weeks to
# a fold they are wide: two folds that look different need not be.

# %%
figure = drawn(folds_panel, [sheet], 7.0, 4.6)
figure.suptitle(f"{SYNTHETIC}by fold, and pooled")
figure

# %% [markdown]
# What a sceptic says of the run (`metrics.json`, key `critic`), worst first:

# %%
pd.DataFrame(
    [(one["severity"], one["text"]) for one in told["critic"]], columns=["severity", "says"]
).rename_axis(f"{SYNTHETIC}critic")

# %% [markdown]
# ## One path is one draw
#
# A walk forward has one path, and its result depends on where the folds lie. Combinatorial purged
# cross-validation (López de Prado, 2018, chapter 12) cuts the span into six groups and tests each
# pair of them with a model that was fitted on the other four, purged on both sides. The fifteen
# splits put together give **five paths** over the whole span, in each of which every bar is
# answered by a model that has not seen it. In the picture a number is the path that a tested group
# goes to.

# %%
settings = CpcvConfig()
splitter = settings.splitter()
splits = cpcv_splits(table, config, settings)
figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
for split in splits:
    rows = {"#b6bcc6": split.train, BLUE: split.test}
    for colour, own in rows.items():
        times = np.unique(ts_init[own])
        parts = np.split(times, np.flatnonzero(np.diff(times) > market.panel.interval_ns) + 1)
        spans = [(part[0] / NS_PER_DAY, np.ptp(part) / NS_PER_DAY) for part in parts]
        axes.broken_barh(spans, (split.index - 0.4, 0.8), color=colour, linewidth=0.0)
edges = np.quantile(np.unique(ts_init[table.matrix.valid]), np.linspace(0.0, 1.0, 7)) / NS_PER_DAY
for path, chosen in enumerate(splitter.path_splits.tolist()):
    for group, split in enumerate(chosen):
        middle = (edges[group] + edges[group + 1]) / 2.0
        axes.text(middle, split, path, ha="center", va="center", color="white", fontsize=7.5)
axes.invert_yaxis()
axes.grid(visible=False, axis="y")
axes.set(ylabel="split", xlabel="time (UTC)", yticks=range(len(splits)))
axes.set_title(f"{SYNTHETIC}grey learns, blue is tested, and goes to the path of the number")
time_axis(axes)

# %% [markdown]
# A path is no backtest of what could have been earned: its models also learned from what came
# later. What paths are for is their **spread**.

# %%
result = cross_validate(market.panel, config, settings)
start, end = int(result.edges[0]), int(result.edges[-1])
balance = profile.execution.starting_balance
paths = []
for number in range(result.n_paths):
    frame = result.path(number)
    outcome = run_backtest(
        market.replay_inputs(start, end, len(frame)),
        PrecomputedPredictions.from_frame(frame, result.spec),
        profile.strategy,
        profile.execution,
    )
    daily = daily_equity(outcome.equity, start=start, end=end, starting_balance=balance)
    paths.append((daily, earned(outcome, start=start, end=end, starting_balance=balance)))

# %%
figure, axes = plt.subplots(figsize=(8.0, 3.2), layout="constrained")
axes.axhline(0.0, color=GREY, linewidth=1.0, linestyle="--")
for number, (daily, _) in enumerate(paths):
    level = 100.0 * (daily.equity / balance - 1.0)
    axes.plot(date_numbers(daily.ts), level, color=COLOURS[number], label=f"path {number}", lw=1.2)
walked = sheet.trading.span.daily
level = 100.0 * (walked.equity / balance - 1.0)
axes.plot(date_numbers(walked.ts), level, color="#111827", linewidth=1.8, label="walk-forward")
axes.set(ylabel="net return [%]", xlabel="time (UTC)")
axes.set_title(f"{SYNTHETIC}five paths, and the one that was walked")
time_axis(axes)
figure.legend(loc="outside upper center", ncols=6, fontsize=7.5)
found = [one for _, one in paths]
pd.DataFrame(
    {
        "AUC": [f"{one['auc'].value:.3f}" for one in result.metrics],
        "log-loss skill": [f"{one['log_loss_skill'].value:.4f}" for one in result.metrics],
        "trades": [one["trades"] for one in found],
        "net return": [f"{one['net_return']:+.1%}" for one in found],
        "Sharpe, before costs": [f"{one['gross_sharpe']:.2f}" for one in found],
        "Sharpe, net": [f"{one['net_sharpe']:.2f}" for one in found],
    },
    index=pd.Index(
        [f"path {number}" for number in range(result.n_paths)],
        name=f"{SYNTHETIC}{format_time(start)[:10]} to {format_time(end)[:10]}",
    ),
)

# %% [markdown]
# Same data, same settings, same strategy: only which rows a model had seen differs. In the real
# data the skill is there in all five, and the returns lie more than ten percentage points apart:
# had this run earned a few percent, the place of its folds alone could have made them. Whoever
# shows one number should say how far it moves. `levibot validate` makes these paths for a run and
# holds it against luck besides, which is what the notebook [05_overfitting](05_overfitting.ipynb)
# is about.

# %%
folder.cleanup()

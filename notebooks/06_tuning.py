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
# # Tuning: a plateau instead of a peak, and what the untouched span says
#
# Settings that are chosen on the span that they are judged on are worth nothing, as the notebook
# [05_overfitting](05_overfitting.ipynb) shows. `levibot tune` sees nothing after the profile's test
# start, judges each configuration on folds inside the span before it, and does not take the best
# one but the middle of the best neighbourhood ([docs/tuning.md](../docs/tuning.md)). This notebook
# runs a small tuning and then lets the test span speak.
#
# It is made for looking: two dozen trials where a hundred are usual, two instruments, half a
# year. It imports a few files of real market data from `../shared/data` where they are present, and
# otherwise makes a market of its own with a planted edge, which is marked SYNTHETIC wherever it is
# shown. To look at a catalog of yours: `LEVIBOT_CATALOG=data/catalog make run-notebooks
# ARGS=06_tuning` (it must hold the span below; the trials count in its ledger).

# %%
import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from adapters.importing import import_path
from adapters.synthetic import SyntheticConfig, generate
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, format_time
from live.pipeline import load_market
from live.profile import load_profile
from live.replay_jobs import earned
from live.trial_records import Judged, ledger_of, trial_of_replay, verdict_line, verdict_of
from live.tuning import run_tuning
from live.tuning_request import TuneOptions, tuning_request
from research.fit_job import FitOptions
from research.metrics import prediction_metrics
from research.plots import GREY, ORANGE, RED, STYLE, date_numbers, time_axis
from research.predictor import PrecomputedPredictions
from research.settings import predictor_spec
from research.tuning_plots import (
    history_figure,
    importance_figure,
    plateau_figure,
    slices_figure,
)
from research.walkforward import predict_forward
from strategies.backtest import run_backtest

# The tuning's figures are made without pyplot; this shows them.
# %matplotlib inline
pd.set_option("display.max_colwidth", None)
plt.rcParams.update(STYLE | {"figure.dpi": 90, "figure.titlesize": 10.0})
# Of a progress bar that nobody asked for.
warnings.filterwarnings("ignore", message="IProgress not found")

# %% [markdown]
# ## What is tuned, and what it may see
#
# The profile is `perps-swing`, four hours ahead, with two instruments, small trees, and without the
# rules that would refuse most trades of so weak a model. A search space names settings by their
# keys; the first three decide a fit, the others only what is made of its predictions.

# %%
SHARED = Path(os.environ.get("LEVIBOT_SHARED_DATA", "../../shared/data"))
SPACE = """\
parameters:
  experts.lightgbm.n_trees: {low: 10, high: 80, log: true}
  experts.lightgbm.num_leaves: {low: 4, high: 32, log: true}
  experts.lightgbm.learning_rate: {low: 0.02, high: 0.2, log: true}
  strategy.entry_threshold: {low: 0.51, high: 0.57, step: 0.005}
  strategy.exit_threshold: {low: 0.44, high: 0.5, step: 0.01}
  strategy.cooldown_bars: {low: 0, high: 16}
"""
profile = load_profile(
    "perps-swing",
    (
        "data.instruments=[BTCUSDT-PERP.BINANCE, ETHUSDT-PERP.BINANCE]",
        "data.start=2023-11-01",
        "data.end=2024-05-01",
        "features.ratios=[[BTCUSDT-PERP.BINANCE, ETHUSDT-PERP.BINANCE]]",
        "experts.lightgbm={n_trees: 30, num_leaves: 15, learning_rate: 0.1, binning_rows: 10000}",
        "calibration.method=platt",
        "validation.test_start=2024-03-15",
        "validation.n_folds=2",
        "strategy.entry_threshold=0.54",
        "strategy.regime_shift=0.0",
        "strategy.edge_margin_bps=null",
        "strategy.risk=null",
        "threads=2",
    ),
)
data = profile.data
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
space_file = Path(folder.name, "space.yaml")
space_file.write_text(SPACE, encoding="utf-8")
options = TuneOptions(trials=24, folds=2, tested_frac=0.5, trials_per_fit=4, min_trades=10)
request = tuning_request(profile, place, Path(folder.name, "tuning"), options, space_file)
inner = request.inner_profile()

# %%
bars = market.panel.bars[0]
daily = slice(95, None, 96)
figure, axes = plt.subplots(figsize=(8.0, 2.6), layout="constrained")
for start, end, colour, label in (
    (data.start, inner.validation.test_start, "#e5e7eb", "tuning: the first fold learns here"),
    (inner.validation.test_start, inner.data.end, "#b6bcc6", "tuning: its folds are judged here"),
    (inner.data.end, data.end, "#bfdbee", "test: no trial has seen it"),
):
    axes.axvspan(start / NS_PER_DAY, end / NS_PER_DAY, color=colour, linewidth=0.0, label=label)
axes.plot(date_numbers(bars.ts_init[daily]), bars.close[daily], color="#111827", linewidth=1.0)
axes.margins(x=0.0)
axes.set(ylabel="close [USDT]", xlabel="time (UTC)")
time_axis(axes)
axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)
_ = figure.suptitle(f"{SYNTHETIC}{bars.instrument_id}, daily closes")

# %% [markdown]
# ## The trials
#
# Fits take long and replays do not, so only every fourth trial is a new fit; those between trade
# the predictions of a promising one in another way, in the real engine, net of all costs. Two
# things are looked for at once, net Sharpe ratio and log-loss skill, weighed by their ranks.
# Killed and run again with the same folder, it would go on where it was.

# %%
summary = run_tuning(request)
record = summary.record
counts = pd.Series(record["counts"], name="number")
counts.rename_axis(f"{SYNTHETIC}tuning").to_frame()

# %%
figure = history_figure(record)
figure.axes[0].set_title(f"{SYNTHETIC}every trial in its order")
figure

# %% [markdown]
# Which settings mattered: the share of the variance over the trials that each explains by itself
# (functional ANOVA). What explains little may be left as it was, and what explains much should show
# a shape below, not a single lucky dot.

# %%
figure = importance_figure(record)
figure.axes[0].set_title(f"{SYNTHETIC}importance")
figure

# %%
figure = slices_figure(record, request.space)
figure.suptitle(f"{SYNTHETIC}rank along each setting; filled: the plateau, diamond: chosen")
figure

# %% [markdown]
# ## Plateau against peak
#
# The best of many noisy results is mostly noise: it is the best because it was lucky (the
# optimizer's curse). So each trial is worth the mean of its neighbourhood, the best tenth by that
# mean is the plateau, and its middle is taken. A peak that its neighbours do not share lies far
# below the diagonal.

# %%
figure = plateau_figure(record)
figure.axes[0].set_title(f"{SYNTHETIC}by itself and with neighbours")
figure

# %%
choice = record["choice"]
print(
    f"{SYNTHETIC}a {choice['verdict']}: the neighbours of the single best share "
    f"{choice['firmness']:.0%} of its lead over the median"
)
TAKEN = {"chosen": record["chosen"], "single best": record["best"]}
told = {
    name: {**one["params"], "Sharpe inside": one["values"][0], "skill inside": one["values"][1]}
    for name, one in TAKEN.items()
}
pd.DataFrame(told).map("{:.4g}".format).rename_axis(f"{SYNTHETIC}configuration")

# %% [markdown]
# What the ledger says of the chosen one on the span that it was chosen on, after all these trials:

# %%
print(SYNTHETIC + (verdict_line(record["trials"]) if record["trials"] else "another ledger"))

# %% [markdown]
# ## What the untouched span says
#
# Now, and only now, the test. Beside the chosen one and the profile as it is stand the single best,
# and every trial that the tuning saw to its end: looking at them all is what nobody may do who
# wants to choose, and it shows here what the choice was worth. So each is recorded in the ledger
# before a result is seen, as a question that was asked of the test.

# %%
seen = [one for one in record["history"] if one["whole"] and one["feasible"]]
fits, rows, trials = {}, [], {}
for one in [{"number": -1, "params": {}, "values": (np.nan, np.nan)}, *seen]:
    own = request.tuned_profile(one["params"]) if one["params"] else profile
    config = own.walk_forward_config()
    spec = predictor_spec(config, market.panel.instruments(), market.panel.interval_ns)
    if spec.spec_hash not in fits:
        fits[spec.spec_hash] = predict_forward(market.panel, config, FitOptions())
    frame = fits[spec.spec_hash]
    start, end = inner.data.end, int(frame["ts_init"].max())
    outcome = run_backtest(
        market.replay_inputs(start, end, len(frame)),
        PrecomputedPredictions.from_frame(frame, spec),
        own.strategy,
        own.execution,
    )
    balance = own.execution.starting_balance
    found = earned(outcome, start=start, end=end, starting_balance=balance)
    skill = prediction_metrics(frame, samples=0)["log_loss_skill"].value
    judged_on = Judged(market.panel.data_hash, market.panel.synthetic, start, end)
    command = {"name": "notebook", "notebook": "06_tuning"}
    trials[one["number"]] = trial_of_replay(own, command, outcome, judged_on, skill)
    rows.append((one["number"], *one["values"], found["net_sharpe"], skill, found["trades"]))
columns = ["trial", "Sharpe inside", "skill inside", "Sharpe", "skill", "trades"]
judged = pd.DataFrame(rows, columns=columns).set_index("trial")
ledger = ledger_of(place)
_ = ledger.append(list(trials.values()))

# %%
names = {-1: "as it is", choice["best"]: "single best", choice["chosen"]: "chosen"}
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
for side, measure in enumerate(("Sharpe", "skill")):
    inside, outside = judged[f"{measure} inside"], judged[measure]
    axes[side].plot(inside, outside, "o", mfc="none", color=GREY, markersize=4.0)
    axes[side].axhline(outside[-1], color=ORANGE, linewidth=1.4, label="profile as it is")
    for number, marker, colour in ((choice["chosen"], "D", RED), (choice["best"], "+", "#111827")):
        place_of = (inside[number], outside[number])
        axes[side].plot(*place_of, marker, color=colour, ms=8.0, label=names[number])
    rank = spearmanr(inside.iloc[1:], outside.iloc[1:]).statistic
    axes[side].set_title(f"{SYNTHETIC}{measure}: rank correlation {rank:.2f}")
    axes[side].set(xlabel="inside the training span", ylabel="on the test")
_ = axes[0].legend(fontsize=7.5)
judged.loc[list(names)].set_index(pd.Index(list(names.values()), name=SYNTHETIC + "test")).round(4)

# %%
print(SYNTHETIC + verdict_line(verdict_of(ledger, trials[choice["chosen"]])))

# %% [markdown]
# In the real data the chosen one and the single best look well inside and lose on the test, as all
# of them do, and the order inside promises nothing for the order outside: this small model knows
# too little of these few months to be tuned, and no way to choose could have repaired that. The
# ledger's deflated ratio had said so before the test was seen. Weeks are short, too: the standard
# error of an annual Sharpe ratio over a month and a half is nearly three, so no difference between
# single dots is shown.
#
# The dots of the test were looked at for this page only, and the line above says what that costs:
# whatever is shown on this span from now on is deflated by all of them. A real tuning ends with
# `levibot walkforward --profile DIR/profile.yaml`, once, which the ledger counts as one.

# %%
folder.cleanup()

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
# # The experts: what they say, what they look at, and how far to believe them
#
# Several models answer the same question, whether the next bar closes higher, and a fusion makes
# one probability of their answers ([docs/experts.md](../docs/experts.md) tells how). This notebook
# fits small ones on one year and opens them up on the two months after it: **every number and
# every picture below is out of sample**, unless it says that it is about the fit.
#
# The fits are made for looking, short and with small networks. They are not the reference result:
# `levibot study` measures that over many months, and `docs/experts/study.md` holds it.
#
# It imports a few files of real market data from `../shared/data` where they are present, and
# otherwise makes a market of its own with a planted edge, which is marked SYNTHETIC wherever it is
# shown. To look at a catalog of yours: `LEVIBOT_CATALOG=data/catalog make run-notebooks
# ARGS=02_experts` (it must hold the span below).

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
from catalog.timestamps import NS_PER_DAY, NS_PER_MINUTE, format_time
from live.profile import load_profile
from research.comparisons import compare_forecasts
from research.expert_plots import (
    attention_figure,
    contributions_figure,
    regime_figure,
    reliability_grid,
    variable_weights_figure,
)
from research.fitted import return_unit
from research.metrics import prediction_metrics, reliability_curve
from research.models.deep.explain import explain_rows
from research.panel import load_panel
from research.plots import BLUE, COLOURS, GREY, STYLE, date_numbers, time_axis
from research.probabilities import log_odds
from research.training_table import build_table
from research.walkforward import walk_forward

# The experts' figures are made without pyplot; this shows them.
# %matplotlib inline
pd.set_option("display.max_colwidth", None)
plt.rcParams.update(STYLE | {"figure.dpi": 90})

# %% [markdown]
# ## The data and the fold
#
# The settings are those of the profile `perps-experts` but for what is overridden here: one fold,
# smaller networks, fewer passes, fewer members. The profile's settings were chosen on 2023, which
# is also what the models learn from here; nothing was chosen on the months that they are tested on.

# %%
SHARED = Path(os.environ.get("LEVIBOT_SHARED_DATA", "../../shared/data"))
COINS = ("BTC", "ETH", "SOL")
profile = load_profile(
    "perps-experts",
    (
        "data.end=2024-03-01",
        "validation.test_start=2024-01-01",
        "validation.n_folds=1",
        "experts.transformer=null",
        "experts.lstm={mirror: true, d_model: 32, epochs: 5, learning_rate: 0.003, "
        "validation_frac: 0, samples: 8}",
        "experts.tft={mirror: true, d_model: 16, epochs: 2, learning_rate: 0.003, "
        "validation_frac: 0, samples: 8, period_bars: 32}",
    ),
)
data, config = profile.data, profile.walk_forward_config()
folder = tempfile.TemporaryDirectory(prefix="levibot-")
given = os.environ.get("LEVIBOT_CATALOG")
if given:
    catalog = Catalog.open(Path("..", given))
elif SHARED.is_dir():
    catalog = Catalog.open(folder.name, create=True)
    for coin in COINS:
        import_path(SHARED / f"bars/perp/{coin}_USDT_USDT-15m-futures.feather", catalog)
        import_path(SHARED / f"funding/{coin}_USDT_USDT-8h-funding_rate.feather", catalog)
else:
    catalog = Catalog.open(folder.name, create=True)
    span = {"start": format_time(data.start)[:10], "end": format_time(data.end)[:10]}
    catalog.ingest(generate(SyntheticConfig(**span, news_per_day=0.0)))
panel = load_panel(
    catalog, data.instruments, data.interval, data.start, data.end, funding=config.features.funding
)
SYNTHETIC = "SYNTHETIC " if panel.synthetic else ""

# %%
result = walk_forward(panel, config)
fold, model, predictions = result.folds[0], result.folds[0].model, result.predictions
OUT_OF_SAMPLE = (
    f"out of sample, {format_time(fold.test_start)[:10]} to {format_time(fold.test_end)[:10]}"
)
pd.Series(
    {
        "data": f"{', '.join(data.instruments)}; {data.interval} bars and funding",
        "question": f"does the close in {config.label.horizon_bars} bar lie above this one?",
        "seen": f"{len(model.feature_names)} features of each bar and instrument",
        "learned from": f"{format_time(fold.train_start)} to {format_time(fold.train_end)} UTC, "
        f"{fold.n_train:,} rows",
        "of these": f"the last {config.holdout_frac:.0%} of the time calibrate and choose the "
        "fusion; the networks did not learn from them",
        "left out": f"{config.validation.embargo_bars} bars before the test, beyond the labels",
        "tested on": f"{format_time(fold.test_start)} to {format_time(fold.test_end)} UTC, "
        f"{fold.n_test:,} rows",
    },
    name="",
).rename_axis(f"{SYNTHETIC}fold").to_frame()

# %%
bars = panel.bars[0]
daily = slice(95, None, 96)
cut = fold.train_end - config.holdout_frac * (fold.train_end - fold.train_start)
figure, axes = plt.subplots(figsize=(8.0, 2.6), layout="constrained")
for start, end, colour, label in (
    (fold.train_start, cut, "#e5e7eb", "all experts learn"),
    (cut, fold.train_end, "#b6bcc6", "held back from networks, calibrates and weighs"),
    (fold.test_start, fold.test_end, "#bfdbee", "tested: everything below"),
):
    axes.axvspan(start / NS_PER_DAY, end / NS_PER_DAY, color=colour, linewidth=0.0, label=label)
axes.plot(date_numbers(bars.ts_init[daily]), bars.close[daily], color="#111827", linewidth=1.0)
axes.margins(x=0.0)
axes.set(ylabel="close [USDT]", xlabel="time (UTC)")
time_axis(axes)
axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3)
_ = figure.suptitle(f"{SYNTHETIC}{bars.instrument_id}, daily closes, and the fold")

# %% [markdown]
# ## What was fitted
#
# Boosted trees see one row at a time. The two networks see the rows before it, too. The heuristic
# is a rule that nothing was fitted for but its calibration; it has no part in the fusion.

# %%
experts = [member.name for member in model.members]
colours = dict(zip([*experts, "fusion"], COLOURS, strict=False))
columns = {name: f"expert_{name}" for name in experts} | {"fusion": "prob_up"}
pd.DataFrame(
    {
        "numbers fitted": [f"{member.expert.cost.parameters:,}" for member in model.members],
        "kilobytes": [f"{member.expert.cost.size_bytes / 1e3:,.0f}" for member in model.members],
        "bars looked back at": [member.expert.reach_bars for member in model.members],
        "calibrated by": [model.reports.calibration[name].chosen for name in experts],
        "in the fusion": ["yes" if name in model.fusion.experts else "no" for name in experts],
    },
    index=pd.Index(experts, name=f"{SYNTHETIC}expert"),
)

# %% [markdown]
# ## What each is worth
#
# Calibrated probabilities against what happened, with 95 % intervals from a bootstrap over whole
# days that all instruments share. AUC ½ and skill 0 are no knowledge; skill is the part of the base
# rate's log loss that is saved. The three rows below the fusion are references, not experts. None
# of this is about trading, whose costs are not counted here.

# %%
MEASURES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "accuracy_at_10pct": "accuracy, most confident tenth",
    "log_loss_skill": "log-loss skill",
    "ece": "calibration error",
}
measured = result.experts | {"fusion": result.metrics} | result.references
pd.DataFrame(
    [[str(found[key]) for key in MEASURES] for found in measured.values()],
    index=pd.Index(list(measured), name=f"{SYNTHETIC}{OUT_OF_SAMPLE}"),
    columns=list(MEASURES.values()),
)

# %% [markdown]
# Whether one is better than another is a question about pairs, row by row: each one's mean log
# loss less the fusion's, where above zero is worse than the fusion. `p` is corrected for the number
# of comparisons (Holm).

# %%
others = {name: columns[name] for name in experts} | {"logistic regression": "logistic_prob"}
pairs = compare_forecasts(predictions, "prob_up", others, scores=("log_loss",))
pd.DataFrame(
    {
        "log loss less the fusion's (1e-4 nats)": [
            f"{1e4 * pair.difference:.1f} [{1e4 * pair.low:.1f}, {1e4 * pair.high:.1f}]"
            for pair in pairs.itertuples()
        ],
        "p": [f"{pair.p_holm:.2g}" for pair in pairs.itertuples()],
        "verdict": pairs["verdict"].to_list(),
    },
    index=pd.Index(pairs["name"], name=f"{SYNTHETIC}{OUT_OF_SAMPLE}"),
)

# %% [markdown]
# ## Can the probabilities be taken at their word?
#
# Ten bins of equally many rows each: the mean of what was said, and the share that rose. On the
# dashed line, a probability means what it says. All panels have one scale, so the width of a cloud
# is how far an expert dares to leave one half. Bars are 95 % intervals.

# %%
curves = {
    name: reliability_curve(
        predictions[predictions[column].notna()], 10, config=config.bootstrap, column=column
    )
    for name, column in columns.items()
}
figure = reliability_grid(curves)
figure.suptitle(f"{SYNTHETIC}Reliability, {OUT_OF_SAMPLE}")
figure

# %% [markdown]
# ## How alike they are, and who is listened to
#
# Averaging helps where errors differ. The left picture shows how the experts' log-odds correlate
# over the tested rows; the right one the share that each has in the fused log-odds. In the real
# data the three that are fitted say nearly the same: there is little to gain from asking all.

# %%
said = predictions[[columns[name] for name in experts]].dropna()
alike = np.corrcoef(log_odds(said.to_numpy()), rowvar=False)
shares = predictions[[f"weight_{name}" for name in experts]].mean().to_numpy()
figure, (left, right) = plt.subplots(
    1, 2, figsize=(8.0, 2.9), layout="constrained", width_ratios=(1.0, 1.25)
)
left.imshow(alike, cmap="Blues", vmin=0.0, vmax=1.3)
for (row, column), value in np.ndenumerate(alike):
    left.text(column, row, f"{value:.2f}", ha="center", va="center", color="#111827")
left.set_xticks(range(len(experts)), experts)
left.set_yticks(range(len(experts)), experts)
left.grid(visible=False)
left.spines[:].set_visible(False)
left.tick_params(length=0)
left.set_title("correlation of log-odds")
right.barh(experts, shares, color=[colours[name] for name in experts], height=0.6)
right.bar_label(right.containers[0], fmt="{:.2f}", padding=3)
right.invert_yaxis()
right.grid(visible=False, axis="y")
right.set(xlim=(0.0, 1.15 * shares.max()), xlabel="mean share [fraction]")
right.set_title(f"fusion: {model.fusion.method}")
_ = figure.suptitle(f"{SYNTHETIC}Experts beside one another, {OUT_OF_SAMPLE}")

# %% [markdown]
# How the fusion was chosen, on the rows held back at the end of the training span: the method with
# the least log loss, unless the logarithmic pool is within one standard error of it. `excess` is
# what a method loses against the best.

# %%
print(f"{SYNTHETIC}inside the training span")
print(model.reports.fusion)

# %% [markdown]
# ## What the trees use
#
# Gain is the loss that a feature's splits took away **in training**, as a share of all. It says
# what the fit found useful, noise included.

# %%
trees = next(member.expert for member in model.members if member.name == "lightgbm")
gains = trees.importances()["gain"].head(15)
figure, axes = plt.subplots(figsize=(8.0, 3.6), layout="constrained")
axes.barh(gains.index, gains, color=colours["lightgbm"], height=0.65)
axes.invert_yaxis()
axes.grid(visible=False, axis="y")
axes.set_xlabel("share of the gain [fraction]")
_ = axes.set_title(f"{SYNTHETIC}LightGBM, in training: the {len(gains)} features with most gain")

# %% [markdown]
# SHAP values say what each feature did to each answer. A point is one tested row: to the right,
# the feature spoke for a rise; its colour is where the feature's value stands among all. A yellow
# left end and a blue right end is a feature against which the trees bet: high now, lower next.

# %%
matrix = build_table(panel, config).matrix
values = matrix.values  # noqa: PD011 (an array, no frame)
tested = np.flatnonzero(
    matrix.valid & (matrix.ts_init > fold.test_start) & (matrix.ts_init <= fold.test_end)
)
# In the order of the predictions.
tested = tested[np.lexsort((matrix.instrument[tested], matrix.ts_init[tested]))]
shown = tested[:: max(1, len(tested) // 2000)]
figure = contributions_figure(
    trees.contributions(values, shown)[:, :-1], values[shown], matrix.names
)
figure.suptitle(f"{SYNTHETIC}LightGBM: SHAP values of {len(shown):,} rows, {OUT_OF_SAMPLE}")
figure

# %% [markdown]
# ## What the Temporal Fusion Transformer looks at
#
# At every bar it weights its variables anew, and the weights sum to one. Drawn are daily means over
# all instruments of the variables with the largest; the legend says what all others have together.
# Where that is most, no single variable carries the answer, or the fit was too short to choose. A
# weight is no effect: it says what is let in, not what becomes of it.

# %%
tft = next(member.expert for member in model.members if member.name == "tft")
looked = explain_rows(tft, matrix, tested)
when = matrix.ts_init[tested]
figure = variable_weights_figure(when, looked.past_weights, looked.past_names, period_ns=NS_PER_DAY)
figure.suptitle(f"{SYNTHETIC}TFT: weights of what each bar brings, {OUT_OF_SAMPLE}")
figure

# %% [markdown]
# What is known of the bar ahead, before it opens, has weights of its own: the time of the day and
# of the week, and where the bar stands within those of the higher timeframes. They repeat with the
# week, because nothing else is known of a time to come.

# %%
figure = variable_weights_figure(
    when, looked.known_weights, looked.known_names, period_ns=NS_PER_DAY
)
figure.suptitle(f"{SYNTHETIC}TFT: weights of what is known ahead, {OUT_OF_SAMPLE}")
figure

# %% [markdown]
# Attention says how far back it looks, beyond what its recurrent part carries along. The dashed
# line is a network that looks at all bars alike. It falls where only those rows see so far whose
# state is old, and they see more bars; so what counts is the distance between the lines.

# %%
figure = attention_figure(looked.attention, interval_minutes=panel.interval_ns / NS_PER_MINUTE)
figure.suptitle(f"{SYNTHETIC}TFT: attention by lag, {OUT_OF_SAMPLE}")
figure

# %% [markdown]
# ## Two kinds of doubt
#
# A network's answer comes with two measures of doubt. Epistemic: how far its dropout members
# disagree on the probability, which more data could remove. Aleatoric: the scale of the coming
# return (`sigma`), which would remain. Here are the TFT's own. Rows are put into fifths by
# each. What the probabilities themselves promised is the mean of max(p, 1 - p).

# %%
answer = tft.predict(matrix, tested)
unit = return_unit(values[tested], matrix.names, config.label.horizon_bars)
answered = predictions.assign(
    prob_up=predictions["expert_tft"], epistemic=answer.epistemic, aleatoric=answer.sigma * unit
).dropna(subset=["label", "prob_up", "epistemic", "aleatoric"])
bootstrap = config.bootstrap.model_dump()
promised = np.maximum(answered["prob_up"], 1.0 - answered["prob_up"])
doubts = {"epistemic": (1.0, "probability"), "aleatoric": (1e4, "bp")}
figure, panels = plt.subplots(1, 2, figsize=(8.0, 2.9), layout="constrained", sharey=True)
rows = []
for axes, (kind, (scale, name)) in zip(panels, doubts.items(), strict=True):
    fifths = pd.qcut(answered[kind], 5, labels=False)
    for number, part in answered.groupby(fifths):
        found = prediction_metrics(part, **bootstrap)
        right, moved = found["accuracy"], part["forward_return"]
        axes.errorbar(
            number,
            right.value,
            yerr=[[right.value - right.low], [right.high - right.value]],
            fmt="o",
            color=BLUE,
            capsize=2.0,
            label=None if number else "came true, 95 %",
        )
        axes.plot(
            number,
            promised[part.index].mean(),
            "o",
            mfc="none",
            color=GREY,
            label=None if number else "promised",
        )
        rows.append(
            {
                f"{SYNTHETIC}doubt": kind,
                "fifth": int(number) + 1,
                "mean": f"{scale * part[kind].mean():.3g} ({name})",
                "promised": f"{promised[part.index].mean():.3f}",
                "accuracy": str(right),
                "log-loss skill": str(found["log_loss_skill"]),
                "returns' root mean square (bp)": f"{1e4 * np.sqrt((moved**2).mean()):.1f}",
            }
        )
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1.0)
    axes.set_xticks(range(5), ["least", "2", "3", "4", "most"])
    axes.set_xlabel(f"fifth by {kind} uncertainty")
panels[0].set_ylabel("right answers [fraction]")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
_ = figure.suptitle(f"{SYNTHETIC}Does accuracy fall where doubt is large? TFT, {OUT_OF_SAMPLE}")

# %%
pd.DataFrame(rows).set_index([f"{SYNTHETIC}doubt", "fifth"])

# %% [markdown]
# In the real data the answers on which the members agree most are right more often than the others;
# by aleatoric doubt no such fall is to be seen. What `sigma` does foretell is the size of the
# return, in the last column. (An accuracy says nothing about size.)
#
# But members agree most where the answer is bold, and bold answers promise more, so the fall need
# not be the doubt's doing. At equal boldness (within tenths of |p - ½|), is the half of the rows on
# which they disagree more answered worse?

# %%
boldness = (answered["prob_up"] - 0.5).abs()
tenth = pd.qcut(boldness, 10, labels=False)
more = answered.groupby(tenth)["epistemic"].rank(pct=True) > 0.5
halves = {"less epistemic": answered[~more], "more epistemic": answered[more]}
print(
    f"{SYNTHETIC}rank correlation of epistemic with |p - 1/2|: "
    f"{answered['epistemic'].corr(boldness, method='spearman'):.2f}"
)
pd.DataFrame(
    [
        (f"{len(part):,}", f"{promised[part.index].mean():.3f}", str(found["accuracy"]))
        for part in halves.values()
        for found in [prediction_metrics(part, **bootstrap)]
    ],
    index=pd.Index(list(halves), name=f"{SYNTHETIC}at equal boldness"),
    columns=["rows", "promised", "accuracy"],
)

# %% [markdown]
# In the real data it is not, as far as two months can tell: beside the probability itself, the
# spread of these members says nothing about whether an answer is right.

# %% [markdown]
# ## Regimes
#
# Each bar is called trend, neutral or mean-reverting by how straight, how persistent and how
# volatile the hours and days before it were: a description of the past, known when the bar closes.

# %%
codes = {"mean_reverting": -1.0, "neutral": 0.0, "trend": 1.0}
first = data.instruments[0]
own = predictions[predictions["instrument_id"] == first]
price = bars.close[np.searchsorted(bars.ts_init, own["ts_init"].to_numpy())]
figure = regime_figure(
    own["ts_init"].to_numpy(), price, own["regime"].map(codes).to_numpy(dtype=np.float64)
)
figure.suptitle(f"{SYNTHETIC}{first}, {data.interval}, {OUT_OF_SAMPLE}")
figure

# %% [markdown]
# Does it matter to the answers? The heuristic is built on it: it follows the trend in a trend and
# expects a return to the mean otherwise. In the real data, what it expected of trends came true
# less often than not; the fitted experts, which may judge for themselves, did not follow it there.

# %%
regimes = predictions[predictions["regime"] != ""].groupby("regime")
pd.DataFrame(
    {
        regime: {
            "rows": f"{len(part):,}",
            "share that rose": f"{part['label'].mean():.3f}",
        }
        | {
            f"accuracy of {name}": str(
                prediction_metrics(part[part[column].notna()], **bootstrap, column=column)[
                    "accuracy"
                ]
            )
            for name, column in columns.items()
        }
        for regime, part in regimes
    }
).T.rename_axis(f"{SYNTHETIC}regime")

# %% [markdown]
# ## And the future?
#
# That no feature and no label looked ahead is not taken on trust: `levibot audit lookahead
# --profile perps-experts --catalog DIR` changes everything after a time, for several times, and
# demands that nothing before moves by a bit.

# %%
folder.cleanup()

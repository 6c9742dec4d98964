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
# # The data: what there is, how good it is, and what was known when
#
# A backtest is worth as much as its data is honest about time. This notebook opens a catalog,
# lists and checks it, looks at prices and funding, asks it a question in SQL, and then turns to the
# one thing that decides whether a result can be believed: **when could each number have been
# known?**
#
# It imports a few files of real market data from `../shared/data` where they are present, and
# otherwise makes a market of its own, which is marked SYNTHETIC wherever it is shown. To look at a
# catalog of yours: `LEVIBOT_CATALOG=data/catalog make run-notebooks ARGS=01_data` (it should hold
# perpetuals with funding, an on-chain series with two vintages, and news).

# %%
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from adapters.importing import import_path
from adapters.synthetic import SyntheticConfig, generate
from catalog.errors import DataError
from catalog.quality import check
from catalog.query import connect
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, format_time, parse_time
from research.plots import BLUE, GREY, ORANGE, RED

pd.set_option("display.max_colwidth", None)
plt.rcParams.update(
    {
        "figure.dpi": 72,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e5e7eb",
        "legend.frameon": False,
    }
)

# %% [markdown]
# ## Open a catalog
#
# `import_path` tells what a file is by its content, moves each candle's stamp from its open to its
# close, and commits file by file: a second import adds nothing, a kill in between leaves whole
# files. On the command line this is `levibot data import PATH --catalog DIR`.

# %%
SHARED = Path(os.environ.get("LEVIBOT_SHARED_DATA", "../../shared/data"))
FILES = (
    "bars/perp/BTC_USDT_USDT-15m-futures.feather",
    "bars/perp/ETH_USDT_USDT-15m-futures.feather",
    "bars/perp/SOL_USDT_USDT-15m-futures.feather",
    "funding/BTC_USDT_USDT-8h-funding_rate.feather",
    "funding/ETH_USDT_USDT-8h-funding_rate.feather",
    "funding/SOL_USDT_USDT-8h-funding_rate.feather",
    "onchain/coinmetrics_btc.csv",
    "onchain/coinmetrics_btc_vintage2.csv",
    "volatility/BTC_dvol.parquet",
    "news/bitcoin_news_2025_first_seen.csv.gz",
)
folder = tempfile.TemporaryDirectory(prefix="levibot-")
given = os.environ.get("LEVIBOT_CATALOG")
imported = []
if given:
    catalog = Catalog.open(Path("..", given))
elif SHARED.is_dir():
    catalog = Catalog.open(folder.name, create=True)
    for name in FILES:
        imported += import_path(SHARED / name, catalog).files
else:
    catalog = Catalog.open(folder.name, create=True)
    market = list(generate(SyntheticConfig(days=120)))
    onchain = next(batch for batch in market if batch.kind == "onchain")
    # A second download, three months later, in which the vendor has restated the flows.
    flow = np.char.startswith(onchain.columns["metric"].astype(str), "Flow")
    noise = np.exp(0.05 * np.random.default_rng(1).standard_normal(len(onchain)))
    restated = onchain.columns | {"value": onchain.columns["value"] * np.where(flow, noise, 1.0)}
    known_at = int(onchain.columns["ts_init"][-1]) + 92 * NS_PER_DAY
    market.append(replace(onchain, columns=restated, vintage="second", known_at=known_at))
    catalog.ingest(market)

SYNTHETIC = "SYNTHETIC " if any(info.synthetic for info in catalog.series()) else ""
pd.DataFrame(
    [
        (file.file, file.status, file.importer, file.rows, "; ".join(file.notes))
        for file in imported
    ],
    columns=["file", "result", "importer", "records", "notes"],
).set_index("file")

# %% [markdown]
# ## What there is
#
# A series has a kind, a name, and a span of `ts_init`, the time at which each record could be
# known. `levibot data info` prints the same list.

# %%
pd.DataFrame(
    [
        (
            SYNTHETIC + info.series,
            info.kind,
            format_time(info.start),
            format_time(info.end),
            f"{info.rows:,}",
            ", ".join(info.vintages),
        )
        for info in catalog.series()
    ],
    columns=["series", "kind", "first known (UTC)", "last known (UTC)", "records", "vintages"],
).set_index("series")

# %% [markdown]
# ## How good it is
#
# Fatal faults (impossible prices, a clock that runs backwards, damaged files) stop every run that
# would use the series. Warnings are for eyes. In the real data they are of two kinds: the market's
# own violence, such as the crash of 2023-08-17, which must stay in; and four bars without volume on
# 2024-10-28 in all three perpetuals at once, which points at the exchange and not at any coin.
# `levibot data check` prints the same findings and exits with 3 if one is fatal.

# %%
report = check(catalog)
print(f"{report.series} series, {report.records:,} records, {len(report.fatal)} fatal faults")
columns = ["severity", "kind", "series", "check", "count", "detail", "first places (UTC)"]
pd.DataFrame(report.rows(), columns=columns).set_index("severity")

# %% [markdown]
# ## Prices and funding
#
# Reads return NumPy columns; a span is `(start, end]` on `ts_init`, everywhere. Asking for what is
# not there is an error that says what is: nothing is moved or filled in.

# %%
perpetuals = [info.series for info in catalog.series("funding")]
bars = {name: catalog.bars(name, "15m") for name in perpetuals}
funding = {name: catalog.funding(name) for name in perpetuals}
try:
    catalog.funding(perpetuals[0], start=parse_time("2031-01-01"))
except DataError as error:
    print(f"DataError: {error}")

# %%
figure, axes = plt.subplots(figsize=(6.8, 2.7), layout="constrained")
for (name, found), colour in zip(bars.items(), (BLUE, ORANGE, GREY), strict=False):
    weekly = slice(7 * 96 - 1, None, 7 * 96)
    times = pd.to_datetime(found.ts_init[weekly])
    growth = found.close[weekly] / found.open[0]
    axes.plot(times, growth, color=colour, label=name.split("-")[0])
axes.set_yscale("log")
axes.set_yticks([0.5, 1, 2] if SYNTHETIC else [1, 2, 5, 10, 20])
axes.yaxis.set_major_formatter("{x:g}")
axes.minorticks_off()
axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
axes.set(ylabel="price / first open (log)", xlabel="UTC")
axes.set_title(f"{SYNTHETIC}Perpetuals, weekly closes")
_ = axes.legend(fontsize=8)

# %%
settled = funding[perpetuals[0]].between(int(bars[perpetuals[0]].ts_init[0]), None)
rates = pd.Series(settled.value * 1e4, pd.to_datetime(settled.ts_init))
figure, axes = plt.subplots(figsize=(6.8, 2.0), layout="constrained")
axes.plot(rates.resample("3D").mean(), color=BLUE, linewidth=1.1)
axes.axhline(0.0, color=GREY, linewidth=0.8)
axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
axes.set(ylabel="funding (bp per 8 h)", xlabel="UTC")
_ = axes.set_title(f"{SYNTHETIC}{perpetuals[0]}, three-day means; positive: longs pay")

# %% [markdown]
# ## A question in SQL
#
# `catalog.query.connect` returns a DuckDB connection in which every kind is a view. How volatile
# was each year, and what did it cost to be long?

# %%
db = connect(catalog.path)
db.sql("""
    WITH returns AS (
        SELECT instrument, year(ts_init - INTERVAL 1 SECOND) AS year,
               ln(close / lag(close) OVER (PARTITION BY instrument ORDER BY ts_init)) AS r
        FROM bars WHERE interval = '15m'
    ), costs AS (
        SELECT instrument, year(ts_init) AS year, avg(rate) * 3 * 365 AS cost
        FROM funding GROUP BY ALL
    )
    SELECT instrument, year, count(*) AS bars,
           round(100 * stddev(r) * sqrt(96 * 365), 1) AS "volatility (% a year)",
           round(100 * any_value(cost), 1) AS "funding paid by longs (% a year)"
    FROM returns JOIN costs USING (instrument, year)
    GROUP BY ALL ORDER BY instrument, year
""").df().set_index(["instrument", "year"])

# %% [markdown]
# ## What was known when
#
# Every record carries two times. `ts_event`: when it happened, or when what it describes ended.
# `ts_init`: when we could know it. **All joins, spans and cuts are on `ts_init`.** One record of
# each kind, each the last one that a decision at the same moment could use:

# %%
last_news = max(catalog.series("news"), key=lambda info: info.end).series
vendor = next(info.series for info in catalog.series("onchain") if len(info.vintages) > 1)
moment = min(int(found.ts_init[-1]) for found in bars.values()) - 2 * NS_PER_DAY
moment = moment // NS_PER_DAY * NS_PER_DAY + 10 * NS_PER_HOUR
bar = bars[perpetuals[0]].between(None, moment)
settlement = funding[perpetuals[0]].between(None, moment)
addresses = catalog.onchain(vendor, "AdrActCnt", end=moment)
headlines = catalog.news(last_news, end=moment)
known = pd.DataFrame(
    [
        (f"bar of {perpetuals[0]}", bar.ts_init[-1], bar.ts_init[-1]),
        (f"funding of {perpetuals[0]}", settlement.ts_event[-1], settlement.ts_init[-1]),
        (f"{vendor} AdrActCnt of a day", addresses.ts_event[-1], addresses.ts_init[-1]),
        ("headline", headlines["ts_event"].iloc[-1], headlines["ts_init"].iloc[-1]),
    ],
    columns=["record", "ts_event", "ts_init"],
).set_index("record")
print(f"{SYNTHETIC}known at {format_time(moment)} UTC: the last")
pd.DataFrame(
    {
        "ts_event (UTC)": known["ts_event"].map(format_time),
        "ts_init (UTC)": known["ts_init"].map(format_time),
        "lag (minutes)": ((known["ts_init"] - known["ts_event"]) / NS_PER_MINUTE).round(1),
        "age at the decision (hours)": ((moment - known["ts_event"]) / NS_PER_HOUR).round(1),
    }
)

# %% [markdown]
# A bar is known at its close and a settlement when it settles. An on-chain day ends at midnight,
# but the vendor needs hours to compute it; a headline is known when somebody first saw it, not when
# its outlet says that it was published (the tail to the right is what the collector found waiting
# on its first day). A backtest that joins on the day's date reads the on-chain
# numbers a whole day and some hours early; one that joins on `published_at` trades on news that had
# not reached it.

# %%
days = catalog.onchain(vendor, "AdrActCnt", start=int(addresses.ts_init[-1]) - 365 * NS_PER_DAY)
every = catalog.news(last_news)
lags = {
    "on-chain days, last year": (days.ts_init - days.ts_event) / NS_PER_HOUR,
    "headlines": (every["ts_init"] - every["ts_event"]).to_numpy() / NS_PER_HOUR,
}
figure, axes = plt.subplots(figsize=(6.8, 2.8), layout="constrained")
for (name, lag), colour in zip(lags.items(), (BLUE, ORANGE), strict=True):
    axes.ecdf(lag, color=colour, label=f"{name}: median {np.median(lag):.1f} h")
axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
axes.set_xscale("log")
axes.set_xticks([1 / 60, 0.25, 1, 6, 24], ["1 min", "15 min", "1 h", "6 h", "1 day"])
axes.minorticks_off()
axes.set(xlabel="lag from ts_event to ts_init", ylabel="share known by then")
axes.set_title(f"{SYNTHETIC}How late slow data is")
_ = axes.legend(loc="upper left", fontsize=8)
# %% [markdown]
# ## A past that changes: vintages and `as_of`
#
# Some vendors restate. Two downloads of the same on-chain series, three months apart, share all
# their days; the catalog keeps both as *vintages*. Which metrics did the vendor change? (The
# tolerance keeps out differences in the sixteenth digit, which are rounding.)

# %%
db.execute(
    """
    SELECT metric, count(*) AS days,
           round(100 * avg(moved::INT), 1) AS "days restated (%)",
           round(100 * median(change) FILTER (moved), 1) AS "median change of those (%)"
    FROM (
        SELECT metric, abs(later.value / early.value - 1) AS change, change > 1e-9 AS moved
        FROM onchain_vintages early JOIN onchain_vintages later USING (series, metric, ts_event)
        WHERE series = $series AND early.vintage = 'first' AND later.vintage <> 'first'
    )
    GROUP BY ALL ORDER BY 3 DESC, metric
    """,
    {"series": vendor},
).df().set_index("metric")

# %% [markdown]
# Exchange flows are restated on practically every day, prices and addresses never. A model that is
# trained on the later download learns from numbers that nobody had. `as_of=t` returns what was
# known at `t`, and says when a later vintage changed it. Without `as_of` a read returns the first
# vintage, which is what a backtest may use.

# %%
restatement = catalog.restated("onchain", vendor)[0]
day = restatement.end - 17 * NS_PER_DAY
moments = {
    "at the day's end": day,
    "half a day later": day + 12 * NS_PER_HOUR,
    "before the second download": restatement.known_at - 1,
    "after the second download": restatement.known_at,
}
rows = []
for when, as_of in moments.items():
    row = {"as of": when, "UTC": format_time(as_of // 10**9 * 10**9)}
    for metric in ("FlowInExUSD", "AdrActCnt"):
        read = catalog.onchain(vendor, metric, as_of=as_of)
        here = read.value[read.ts_event == day]
        row[f"{metric} ({read.unit})"] = f"{here[0]:,.0f}" if len(here) else "not known yet"
    rows.append(row)
print(f"{restatement}\n\n{SYNTHETIC}the day that ended at {format_time(day)} UTC:")
pd.DataFrame(rows).set_index("as of")

# %%
window = restatement.end - 60 * NS_PER_DAY
reads = [
    catalog.onchain(vendor, "FlowInExUSD", start=window, as_of=as_of)
    for as_of in (restatement.known_at - 1, restatement.known_at)
]
early, later = (
    pd.Series(read.value, pd.to_datetime(read.ts_event)).rename(read.shown) for read in reads
)
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(6.8, 3.9), sharex=True, height_ratios=(3, 2), layout="constrained"
)
top.plot(early / 1e9, color=BLUE, label="as of the day before the second download")
top.plot(later / 1e9, color=RED, linestyle="--", label="as of the second download")
top.set(ylabel="inflow (10⁹ USD a day)", title=f"{SYNTHETIC}{vendor}: flows into exchanges")
top.set_ylim(0, 1.45 * max(early.max(), later.max()) / 1e9)
top.legend(loc="upper left", fontsize=8)
bottom.bar(early.index, 100 * (later / early - 1), color=GREY, width=0.8)
bottom.axhline(0.0, color="#374151", linewidth=0.8)
bottom.set(ylabel="restated by (%)", xlabel="end of the day described (UTC)")
_ = bottom.xaxis.set_major_locator(mdates.WeekdayLocator(mdates.MO, interval=2))

# %% [markdown]
# What the catalog cannot know it assumes, and says so: no file states when it was downloaded, so
# the second one counts as known a quarter after its last day.
#
# ## The data's fingerprint
#
# A run stores the hash of the data that it used. The hash is of content, not of files: the same
# records, put into another catalog in two pieces and in the wrong order, have the same hash. A
# later vintage does not change it either; one bar less does.

# %%
series = catalog.series("bars")[0].series
whole = [("bars", series, None, None)]
records = catalog.records("bars", series)
half = len(records["ts_init"]) // 2
with tempfile.TemporaryDirectory(prefix="levibot-") as elsewhere:
    copy = Catalog.open(elsewhere, create=True)
    for part in (slice(half, None), slice(None, half)):
        piece = {column: values[part] for column, values in records.items()}
        copy.ingest([Batch("bars", series, piece, source="a copy", synthetic=bool(SYNTHETIC))])
    shorter = [("bars", series, None, int(records["ts_init"][-2]))]
    hashes = {
        "here": catalog.data_hash(whole),
        "elsewhere": copy.data_hash(whole),
        "elsewhere, one bar less": copy.data_hash(shorter),
    }
pd.Series(hashes, name="SHA-256 of the content, first half").str[:32].to_frame()

# %%
db.close()
folder.cleanup()

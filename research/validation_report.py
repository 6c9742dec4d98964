"""A validation in words and tables, as Markdown: the verdicts first, what they stand on below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from research.validation_tables import HOLDING, NOTHING

type Record = Mapping[str, Any]

PICTURES = {
    "paths": "What each path of the cross-validation earned",
    "overfitting": "Choosing the best variant on one half of the days",
    "null": "The reduced pipeline on null markets (grey) and on the real one (line)",
}
_TABLES = {
    "pbo": "probability of backtest overfitting",
    "spa_nothing": f"SPA against {NOTHING}",
    "spa_holding": f"SPA against {HOLDING}",
    "mcs": "model confidence set",
}
"""What the tables of `research.validation_tables.variant_tables` are called."""


def picture_name(kind: str) -> str:
    """Return the file name of a picture."""
    return f"validation-{kind}.png"


def validation_markdown(record: Record, pictures: Sequence[str]) -> str:
    """Return the page of a validation.

    Parameters
    ----------
    record : mapping
        Content of ``validation.json``.
    pictures : sequence of str
        Kinds that were drawn; see `PICTURES`.
    """
    head = [f"# Validation of `{record['profile']}`", ""]
    if record["synthetic"]:
        head += ["**SYNTHETIC DATA: these results say nothing about any market**", ""]
    head += [
        f"Run `{record['run']}`, {record['from']} to {record['to']}, "
        f"{', '.join(record['instruments'])}, {record['interval']}.",
        "",
    ]
    parts = (
        head,
        ["## In short", "", *[f"- {line}" for line in summary_lines(record)], ""],
        _paths(record),
        _picture("paths", pictures),
        _variants(record),
        _picture("overfitting", pictures),
        _forecasts(record),
        _null(record),
        _picture("null", pictures),
        _resources(record),
    )
    return "\n".join(line for part in parts for line in part)


def summary_lines(record: Record) -> list[str]:
    """Return the verdicts, one sentence each."""
    spread, cpcv = record["cpcv"]["spread"], record["cpcv"]
    tables, count = record["variants"]["tables"], len(record["variants"]["rows"])
    idle = sum(one["trades"] == 0 for one in cpcv["paths"])
    lines = [
        f"cross-validation: {len(cpcv['paths'])} paths of {len(cpcv['splits'])} splits, net "
        f"Sharpe ratio a year from {spread['sharpe_least']:.2f} to {spread['sharpe_largest']:.2f} "
        f"(mean {spread['sharpe_mean']:.2f}); {spread['share_lost']:.0%} of the paths lost"
        + (f", on {idle} of them nothing was traded (a ratio of 0)" if idle else ""),
        f"trials: {record['trials_line']}",
        f"before this validation's own {count} variants counted: deflated Sharpe ratio "
        f"{_number(record['trials_before']['dsr'])} with {record['trials_before']['count']} trials",
    ]
    if tables["pbo"] is not None:
        lines.append(
            f"probability of backtest overfitting over {count} variants: "
            f"{tables['pbo']['value']:.2f} (choosing luck gives about 0.5); the chosen variant "
            f"lost on the other half in {tables['pbo']['probability_of_loss']:.0%}"
        )
    for key, rival in (("spa_nothing", "doing nothing"), ("spa_holding", "buying and holding")):
        if tables[key] is not None:
            lines.append(
                f"SPA, no variant better than {rival}: p = {_p(tables[key]['consistent'])}"
            )
    if tables["mcs"] is not None:
        lines.append(f"model confidence set: {_set_line(tables['mcs'], count)}")
    lines += [f"{_TABLES[key]}: not to be had, {why}" for key, why in tables["refused"].items()]
    lines += [_forecast_line(name, one) for name, one in record["forecasts"].items()]
    if record["null"] is not None:
        found = record["null"]["p_values"]
        lines.append(
            f"null test, {record['null']['config']['runs']} markets: p = "
            f"{_p(found['log_loss_skill'])} for the log-loss skill, {_p(found['net_sharpe'])} for "
            f"the net Sharpe ratio, {_p(found['gross_sharpe'])} for that before costs"
        )
    return lines


def _set_line(found: Record, count: int) -> str:
    included = found["included"]
    rivals = [name for name in (NOTHING, HOLDING) if name in included]
    kept = len(included) - len(rivals)
    beside = (
        f", and {' and '.join(rivals)}" if rivals else ", and neither doing nothing nor holding"
    )
    return f"{kept} of {count} variants cannot be told from the best{beside}"


def _forecast_line(name: str, found: Record) -> str:
    losses, hits = found["losses"], found["hits"]
    told = [f"against the {name}:"]
    if losses is not None:
        told.append(f"log loss {losses['difference']:+.5f} (Diebold-Mariano p = {_p(losses['p'])})")
    if hits is not None:
        told.append(f"accuracy {hits['difference']:+.4f} (McNemar by days p = {_p(hits['p'])})")
    return " ".join(told) if len(told) > 1 else f"against the {name}: no difference at all"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return "unknown"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _paths(record: Record) -> list[str]:
    cpcv = record["cpcv"]
    lines = [
        "## Combinatorial purged cross-validation",
        "",
        f"{cpcv['n_groups']} groups, {cpcv['n_test_groups']} tested at a time. Every path predicts "
        "the whole span by models that have not seen the labels of what they predict, but that "
        "were also fitted on what came later: paths show how far a result depends on where folds "
        "happen to lie, not what could have been earned.",
        "",
        _row("path", "AUC", "log-loss skill", "net return", "Sharpe", "max drawdown", "trades"),
        _row("---", *["---:"] * 6),
    ]
    for number, one in enumerate(cpcv["paths"]):
        found = one["metrics"]
        lines.append(
            _row(
                number,
                f"{found['auc'][0]:.4f}",
                f"{found['log_loss_skill'][0]:.4f}",
                _percent(one["net_return"]),
                f"{one['net_sharpe']:.2f}",
                _percent(one["max_drawdown"]),
                one["trades"],
            )
        )
    return [*lines, ""]


def _variants(record: Record) -> list[str]:
    found = record["variants"]
    tables = found["tables"]
    p_values = {} if tables["mcs"] is None else tables["mcs"]["p_values"]
    lines = [
        "## A family of variants",
        "",
        f"The run's own out-of-sample predictions, replayed with: {found['family']}. The set "
        "column is the largest level at which a variant would still be in the model confidence "
        "set of mean returns.",
        "",
        _row("variant", "net return", "Sharpe", "before costs", "max drawdown", "trades", "set"),
        _row("---", *["---:"] * 6),
    ]
    for row in found["rows"]:
        own = p_values.get(row["name"])
        lines.append(
            _row(
                row["name"],
                _percent(row["net_return"]),
                f"{row['net_sharpe']:.2f}",
                f"{row['gross_sharpe']:.2f}",
                _percent(row["max_drawdown"]),
                row["trades"],
                "" if own is None else f"{own:.3f}",
            )
        )
    rivals = [name for name in (NOTHING, HOLDING) if name in p_values]
    lines += [_row(name, "", "", "", "", "", f"{p_values[name]:.3f}") for name in rivals]
    told = [f"{_TABLES[key]}: not to be had, {why}" for key, why in tables["refused"].items()]
    if tables["left_out"]:
        told.append(f"left out, their equity was used up: {', '.join(tables['left_out'])}")
    record_days = found["track_record"]
    needed = record_days["needed_days"]
    told.append(
        f"track record of the run: {record_days['days']} days; a Sharpe ratio above 0 would be "
        "shown at 95 % by "
        + ("no length of it" if needed is None or math.isinf(needed) else f"{needed:.0f}")
    )
    return [*lines, "", *[f"- {one}" for one in told], ""]


def _forecasts(record: Record) -> list[str]:
    lines = [
        "## Forecasts",
        "",
        "Differences are of the fused probability less the rival; rows of one day stand together "
        "and labels overlap. Negative differences of log loss and positive ones of accuracy are "
        "better. A best expert was picked on these very rows, which favours it.",
        "",
        _row("rival", "log loss", "p (Diebold-Mariano)", "accuracy", "p (McNemar)", "p, by rows"),
        _row("---", *["---:"] * 5),
    ]
    for name, one in record["forecasts"].items():
        losses, hits = one["losses"] or {}, one["hits"] or {}
        lines.append(
            _row(
                name,
                _signed(losses.get("difference"), 6),
                _p(losses.get("p")),
                _signed(hits.get("difference"), 4),
                _p(hits.get("p")),
                _p(hits.get("p_rows")),
            )
        )
    return [*lines, ""]


def _null(record: Record) -> list[str]:
    found = record["null"]
    if found is None:
        return ["## Null test", "", "Not made (`--null-runs 0`).", ""]
    config, small, seen = found["config"], found["reduced"], found["observed"]
    kind = config["kind"].replace("_", " ")
    if config["kind"] == "block_shuffle":
        kind += f", blocks of {config['block_bars']} bar(s)"
    traded = sum(count > 0 for count in found["trades"])
    lines = [
        "## Null test",
        "",
        f"{config['runs']} markets without anything to foretell ({kind}), each through the reduced "
        f"pipeline: {small['trees']} trees of {small['leaves']} leaves, {small['calibration']} "
        f"calibration, {small['folds']} folds, data from {small['from']}, tested from "
        f"{small['test_from']} to {small['to']}; features, label, costs and strategy are the "
        f"profile's. The real market went through the same. On {traded} of the null markets "
        "anything was traded; where nothing is, the Sharpe ratio is 0.",
        "",
        _row("statistic", "real market", "null: median", "null: 95 %", "null: largest", "p"),
        _row("---", *["---:"] * 5),
    ]
    for name, values in found["null"].items():
        ordered = sorted(values)
        lines.append(
            _row(
                name.replace("_", " "),
                f"{seen[name]:.4f}",
                f"{_quantile(ordered, 0.5):.4f}",
                f"{_quantile(ordered, 0.95):.4f}",
                f"{ordered[-1]:.4f}",
                _p(found["p_values"][name]),
            )
        )
    return [*lines, ""]


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _resources(record: Record) -> list[str]:
    seconds = ", ".join(f"{name} {spent:.1f}" for name, spent in record["seconds"].items())
    memory = record["peak_memory_mb"]
    return [
        "## What it took",
        "",
        f"- seconds: {seconds}",
        f"- peak memory: {memory['main']:.0f} MB, and {memory['worker']:.0f} MB in the largest of "
        f"{record['workers']} worker processes; what was kept from before is not counted",
        f"- version {record['version']}, data {record['data_hash'][:16]}, profile "
        f"{record['profile_hash'][:16]}",
        "",
    ]


def _picture(kind: str, pictures: Sequence[str]) -> list[str]:
    return [f"![{PICTURES[kind]}]({picture_name(kind)})", ""] if kind in pictures else []


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _signed(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:+.{digits}f}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"

"""A study's record as a page of Markdown: nothing is computed here but what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from research.estimates import Estimate
from research.study_effects import EXPERT_RULE, INPUT_RULE, overall_verdict
from research.study_tables import Record

_TITLES = {
    "auc": "AUC",
    "log_loss_skill": "log-loss skill",
    "brier": "Brier",
    "accuracy": "accuracy",
    "accuracy_at_10pct": "at 10 %",
    "accuracy_at_1pct": "at 1 %",
    "ece": "ECE",
}
"""Metrics in the order of the columns, and what stands above them."""
_KINDS = {
    "chosen": "the model",
    "expert": "experts",
    "fusion": "fusions of all experts, without recalibration",
    "subset": "fusions of some experts",
    "reference": "references",
}
_PICTURES = {
    "reliability": "What happened against what was said",
    "folds": "Log-loss skill by fold",
    "weights": "Mean weights in the fusion by fold",
}


def study_markdown(record: Record) -> str:
    """Return the page.

    Parameters
    ----------
    record : dict
        What `live.study.run_study` writes as ``study.json``.
    """
    parts: list[str] = [*_head(record), *_verdicts(record)]
    for horizon in record["horizons"]:
        parts += _horizon(record, horizon)
    for horizon in record["news"]:
        parts += _news(record, horizon)
    parts += [*_resources(record), *_provenance(record)]
    return "\n".join(parts).rstrip() + "\n"


def picture_name(kind: str, horizon: str) -> str:
    """Return the file name of a picture beside the page, such as ``study-folds-h1.png``."""
    return f"study-{kind}-h{horizon}.png"


def _head(record: Record) -> list[str]:
    market, settings = record["market"], record["settings"]
    made_up = ["", "**SYNTHETIC DATA**"] if record["synthetic"] else []
    missing = record["missing"]
    unfinished = (
        ["", f"**Not finished:** {', '.join(missing)} still to be run; run the command again."]
        if missing
        else []
    )
    left_out = [f"- {name}: not studied, {why}" for name, why in record["left_out"].items()]
    first = next(iter(record["horizons"].values()))
    span = f"{first['from']} to {first['to']}"
    return [
        "# What each expert, fusion and input is worth",
        *made_up,
        *unfinished,
        "",
        f"Profile `{record['profile']}`: {', '.join(market['instruments'])}, bars of "
        f"{market['interval']}, {len(first['folds'])} folds tested out of sample from {span}.",
        "Brackets hold the central 95 % of a stationary bootstrap over whole days. Paired tests "
        "compare log losses row by row; the p-value is the larger of the bootstrap's and that of "
        "Diebold and Mariano, corrected by Holm's method for the number of comparisons in its "
        f"table; alpha is {settings['comparison']['alpha']:g}.",
        f"Configurations (and versions of code or data) tried on these folds so far: "
        f"{record['trials']}.",
        *(["", *left_out] if left_out else []),
        "",
    ]


def _verdicts(record: Record) -> list[str]:
    """Return what earns its place, at each horizon and in short at the first."""
    horizons = list(record["horizons"])
    header = ["", *(f"{one} bar{'s' if one != '1' else ''}" for one in horizons)]
    experts: dict[str, dict[str, str]] = {}
    for horizon, found in record["horizons"].items():
        for one in found["experts"]:
            name = f"{one['expert']} (stands in)" if one["stands_in"] else one["expert"]
            experts.setdefault(name, {})[horizon] = one["verdict"]
    for horizon, found in record["news"].items():
        for one in found["experts"]:
            if one["expert"] == "sentiment":
                name = f"sentiment (in {found['to'][:4]})"
                experts.setdefault(name, {})[horizon] = one["verdict"]
    inputs: dict[str, dict[str, list[str]]] = {}
    for horizon, rows in record["inputs"].items():
        for row in rows:
            inputs.setdefault(row["input"], {}).setdefault(horizon, []).append(row["verdict"])
    rows = [
        [f"{record['switches'][name]['what']} (`{name}`)", _state(record, name)]
        + [overall_verdict(found[h]) if h in found else "" for h in horizons]
        for name, found in inputs.items()
    ]
    found = [[name, *(one.get(h, "") for h in horizons)] for name, one in experts.items()]
    parts = ["## What earns its place", ""]
    if found:
        parts += [EXPERT_RULE, "", *_table(header, found)]
    else:
        parts += ["Experts: one alone says nothing of what another adds.", ""]
    if rows:
        parts += [INPUT_RULE, "", *_table(["", "in the profile", *header[1:]], rows)]
    else:
        parts += ["Inputs: none was studied.", ""]
    return parts


def _state(record: Record, name: str) -> str:
    return "on" if record["switches"][name]["on"] else "off"


def _horizon(record: Record, horizon: str) -> list[str]:
    found = record["horizons"][horizon]
    ahead = f"{horizon} bar{'s' if horizon != '1' else ''} ahead"
    parts = [f"## {ahead[0].upper()}{ahead[1:]}", "", f"{found['rows']:,} labelled rows.", ""]
    parts += _measures(found["measures"])
    parts += [f"Log loss against `{found['baseline']}` alone, in 1e-4 nats; below zero is better:"]
    parts += ["", *_comparison_table("forecast", "name", found["comparisons"])]
    if found["experts"]:
        parts += ["What an expert changes in the log loss of the fusion, in 1e-4 nats:", ""]
        parts += _comparison_table("expert", "expert", found["experts"])
    if record["inputs"].get(horizon):
        parts += ["What an input changes in the log loss of an expert, in 1e-4 nats:", ""]
        parts += _input_table(record["inputs"][horizon])
    parts += _weights(found["weights"])
    parts += _correlation(found["correlation"])
    drawn = {
        "reliability": bool(found["reliability"]),
        "folds": True,
        "weights": len(found["weights"]["by_fold"][0]["weights"]) > 1,
    }
    for kind, title in _PICTURES.items():
        if drawn[kind]:
            parts += [f"![{title}, {ahead}]({picture_name(kind, horizon)})", ""]
    return parts


def _news(record: Record, horizon: str) -> list[str]:
    found = record["news"][horizon]
    parts = [
        f"## News, {horizon} bar{'s' if horizon != '1' else ''} ahead",
        "",
        f"Tested from {found['from']} to {found['to']}, {found['rows']:,} labelled rows; all "
        "experts of this table have the news among their features.",
        "",
        *_measures(found["measures"]),
    ]
    if found["experts"]:
        parts += ["What an expert changes in the log loss of the fusion, in 1e-4 nats:", ""]
        parts += _comparison_table("expert", "expert", found["experts"])
    return parts


def _measures(rows: Sequence[Record]) -> list[str]:
    lines: list[list[str]] = []
    for kind, title in _KINDS.items():
        of_kind = [row for row in rows if row["kind"] == kind]
        if of_kind:
            lines.append([f"**{title}**", *[""] * (len(_TITLES) + 1)])
        lines += [
            [row["name"], f"{row['answered']:.1%}", *(_estimate(row[key]) for key in _TITLES)]
            for row in of_kind
        ]
    return _table(["", "answered", *_TITLES.values()], lines)


def _comparison_table(title: str, key: str, rows: Sequence[Record]) -> list[str]:
    lines = [
        [
            row[key],
            f"{row['rows']:,}",
            _difference(row),
            _p(row["p"]),
            _p(row["p_holm"]),
            row["verdict"],
        ]
        for row in rows
    ]
    return _table([title, "rows", "difference", "p", "corrected p", "verdict"], lines)


def _input_table(rows: Sequence[Record]) -> list[str]:
    lines = [
        [f"`{row['input']}`", row["judge"]]
        + [_plain(row[side][key]) for key in ("auc", "log_loss_skill") for side in _SIDES]
        + [_difference(row), _p(row["p"]), _p(row["p_holm"]), row["verdict"]]
        for row in rows
    ]
    header = ["input", "judge", "AUC with", "without", "skill with", "without", "difference"]
    return _table([*header, "p", "corrected p", "verdict"], lines)


_SIDES = ("with", "without")


def _weights(weights: Record) -> list[str]:
    names = list(weights["by_fold"][0]["weights"]) if weights["by_fold"] else []
    if len(names) < 2:
        return []
    lines = [
        [f"{what} {group['group']}", f"{group['share']:.1%}"]
        + [f"{group['weights'][name]:.3f}" for name in names]
        for what, key in (("fold", "by_fold"), ("regime", "by_regime"))
        for group in weights[key]
    ]
    return ["Mean weights in the fusion:", "", *_table(["", "rows", *names], lines)]


def _correlation(correlation: Record) -> list[str]:
    names = correlation["names"]
    if len(names) < 2:
        return []
    lines = [
        [name, *("" if value is None else f"{value:.2f}" for value in row)]
        for name, row in zip(names, correlation["values"], strict=True)
    ]
    return ["How log-odds correlate:", "", *_table(["", *names], lines)]


def _resources(record: Record) -> list[str]:
    steps: list[str] = sorted(
        {step for row in record["resources"]["variants"] for step in row["seconds"]}
    )
    lines = [
        [f"`{row['variant']}`", str(row["folds"]), f"{row['wall']:,.0f}"]
        + [f"{row['seconds'].get(step, 0.0):,.0f}" for step in steps]
        + [f"{row['peak_memory_mb']:,.0f}"]
        for row in record["resources"]["variants"]
    ]
    total = record["resources"]["wall"]
    threads = " or ".join(map(str, record["resources"]["threads"])) or "unknown"
    return [
        "## Time and memory",
        "",
        f"{total:,.0f} s of fitting and predicting in all, interrupted sessions too, on {threads} "
        "threads. Steps are summed "
        "over all folds, in seconds that passed on the one thread that did each; features, "
        "calibration and fusion are in the whole only. Memory is the most that the process had "
        "held when the last fold was done: earlier walk-forwards of the same session count, so "
        "that it bounds what this one needed and does not measure it.",
        "",
        *_table(["walk-forward", "folds", "wall s", *steps, "peak MiB"], lines),
    ]


def _provenance(record: Record) -> list[str]:
    found = record["provenance"]
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    lines = [
        [f"`{one['name']}`", *(f"`{one[key][:12]}`" for key in ("spec", "data", "code", "key"))]
        for one in found["variants"]
    ]
    return [
        "## What reproduces this",
        "",
        f"```\n{found['command']}\n```",
        "",
        f"Version {found['version']}, Python {found['python']}, {libraries}; profile hash "
        f"`{found['profile_hash'][:12]}`. The hashes say what each walk-forward was asked, on "
        "which data and by which code; whole ones, part by part and of every fold's predictions "
        "are in `study.json`.",
        "",
        *_table(["walk-forward", "spec", "data", "code", "all"], lines),
    ]


def _estimate(record: dict[str, float | None]) -> str:
    values = (float("nan") if value is None else value for value in record.values())
    found = Estimate(*values)
    return "" if found.value != found.value else str(found)


def _difference(row: Record) -> str:
    ends = [row[key] for key in ("difference", "low", "high")]
    if any(value is None for value in ends):
        return "" if ends[0] is None else f"{1e4 * ends[0]:+.2f}"
    value, low, high = (1e4 * end for end in ends)
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a table as GitHub draws it and an empty line: the first column left, others right."""
    align = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, align, *rows]
    return [*("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), ""]

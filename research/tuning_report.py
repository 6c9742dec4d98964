"""A tuning in numbers and words: history, importance, plateau, and what was chosen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from research.tuning import Choice, TunedTrial

if TYPE_CHECKING:
    from research.tuning_space import SearchSpace

type Record = dict[str, Any]

TITLES = {"sharpe": "net Sharpe ratio [per year]", "skill": "log-loss skill [fraction]"}
PICTURES = {
    "history": "Every trial in its order, and the best until then.",
    "importance": "Share of the results' variance that each parameter explains by itself.",
    "slices": "Results along each parameter; filled: the best tenth by their neighbourhoods.",
    "plateau": "What trials are worth by themselves and with their neighbours. On a plateau the "
    "two agree; a spike lies far below the diagonal.",
}
_LEAST_FOR_IMPORTANCE = 8
_TREES = 64


def picture_name(kind: str) -> str:
    """Return the file name of a picture of `PICTURES`."""
    return f"tuning-{kind}.png"


def tuning_record(
    trials: Sequence[TunedTrial],
    choice: Choice,
    space: SearchSpace,
    *,
    objectives: Sequence[str],
    seed: int,
) -> Record:
    """Return the numbers of a tuning, for JSON.

    Parameters
    ----------
    trials : sequence of TunedTrial
        All that have a value.
    choice : Choice
        From `research.tuning.choose`.
    space : SearchSpace
        Its parameters.
    objectives : sequence of str
        Names of the values.
    seed : int
        Of the trees that measure importance.
    """
    by_number = {one.number: one for one in trials}
    whole = [one for one in trials if one.whole]
    return {
        "objectives": list(objectives),
        "space": {key: str(one) for key, one in space.parameters.items()},
        "choice": choice.as_dict(),
        "chosen": _row(by_number[choice.chosen]),
        "best": _row(by_number[choice.best]),
        "importance": {
            name: importances(whole, space, at, seed=seed) for at, name in enumerate(objectives)
        },
        "history": [_row(one) for one in trials],
    }


def _row(one: TunedTrial) -> Record:
    return {
        "number": one.number,
        "params": dict(one.params),
        "whole": one.whole,
        "feasible": one.feasible,
        "values": list(one.values),
        "running": [list(values) for values in one.running],
        "facts": {name: fact for name, fact in one.facts.items() if name != "running"},
    }


def importances(
    trials: Sequence[TunedTrial], space: SearchSpace, objective: int, *, seed: int
) -> dict[str, float]:
    """Return how much of a result's variance each parameter explains, by functional ANOVA.

    Parameters
    ----------
    trials : sequence of TunedTrial
        Those that saw every fold.
    space : SearchSpace
        Their parameters.
    objective : int
        Which of the values.
    seed : int
        Of the random forest that stands for the results (Hutter et al., 2014).

    Returns
    -------
    dict of str to float
        Shares that sum to one, largest first; empty where there are too few trials to say
        anything, or all are alike.
    """
    values = [one.values[objective] for one in trials]
    varied = [key for key in space.parameters if len({repr(one.params[key]) for one in trials}) > 1]
    if len(trials) < _LEAST_FOR_IMPORTANCE or len(set(values)) < 2 or not varied:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed))
    known.add_trials(
        [
            optuna.create_trial(
                params={key: one.params[key] for key in varied},
                distributions={key: space.parameters[key].distribution() for key in varied},
                value=value,
            )
            for one, value in zip(trials, values, strict=True)
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(known, evaluator=evaluator)
    return {key: float(share) for key, share in found.items()}


def tuning_markdown(record: Record) -> str:
    """Return a tuning's page."""
    parts = [
        _head(record),
        _chosen(record),
        _plateau(record),
        _importance(record),
        "\n".join(_picture(kind) for kind in PICTURES),
        _trials(record),
        _origin(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(record: Record) -> str:
    market, counts = record["market"], record["counts"]
    made_up = "\n\n**The data are made up; nothing here says anything about markets.**"
    return (
        f"# Tuning of `{record['profile']}`\n\n"
        f"{counts['trials']} configurations, each judged on {market['folds']} walk-forward folds "
        f"from {market['tested_from']} to {market['to']}. The latter is where the profile's own "
        "test begins: nothing after it was read. Of them "
        f"{counts['whole']} saw every fold, {counts['given_up']} were given up early, "
        f"{counts['refused']} could not be, and {counts['too_few_trades']} traded less than "
        f"{counts['min_trades']} times. There were {counts['fits']} different fits; the other "
        "trials made other trades of the same predictions."
        f"{made_up if record['synthetic'] else ''}"
    )


def _chosen(record: Record) -> str:
    objectives, baseline = record["objectives"], record["baseline"]
    rows = [
        ("the profile as it is", baseline["running"][-1], baseline),
        ("single best", record["best"]["values"], record["best"]["facts"]),
        ("**chosen**", record["chosen"]["values"], record["chosen"]["facts"]),
    ]
    lines = [
        "## What was chosen",
        "",
        f"| | {' | '.join(TITLES[name] for name in objectives)} | trades | net return |",
        f"|---|{'---:|' * (len(objectives) + 2)}",
    ]
    for name, values, facts in rows:
        cells = [_number(value) for value in values]
        earned = facts["net_return"]
        cells += [str(facts["trades"]), "" if earned is None else f"{earned:+.2%}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    chosen = record["chosen"]
    lines += ["", "| parameter | chosen | single best | searched |", "|---|---:|---:|---|"]
    for key, searched in record["space"].items():
        one, best = chosen["params"][key], record["best"]["params"][key]
        lines.append(f"| `{key}` | {_value(one)} | {_value(best)} | {searched} |")
    lines += [
        "",
        "These results chose the configuration, so they say nothing about what it will earn: "
        "`levibot walkforward --profile profile.yaml` does, on folds that nothing here has seen.",
    ]
    if all(a >= b for a, b in zip(rows[0][1], rows[2][1], strict=True)):
        lines += [
            "",
            "**The profile as it is did no worse than what was chosen: nothing here speaks for a "
            "change.**",
        ]
    verdict = record["trials"]
    if verdict is not None and verdict["dsr"] is not None and verdict["count"] > 1:
        lines += [
            "",
            f"The ledger knows {verdict['count']} trials on these data. The best of as many lucky "
            f"ones would have a Sharpe ratio of {verdict['threshold_annual']:.2f} a year; the "
            f"chosen one is above that with probability {verdict['dsr']:.3f} (deflated Sharpe "
            "ratio).",
        ]
    return "\n".join(lines)


def _plateau(record: Record) -> str:
    choice = record["choice"]
    firm = choice["firmness"]
    share = "an unknown part" if firm is None or not math.isfinite(firm) else f"{firm:.2f}"
    verdict = {
        "plateau": "stands on a plateau: those near the best one are good, too",
        "spike": "stands on a spike: those near the best one are not good, so it was luck or will "
        "be missed",
        "unknown": "is no better than the median one, or there is none beside it: whether it "
        "stands on a plateau or on a spike is not known. Try more",
    }[choice["verdict"]]
    return (
        "## Plateau or spike\n\n"
        f"The single best trial {verdict}. Its {choice['neighbours'] - 1} nearest "
        f"neighbours keep {share} of its lead over the median trial (1: as good as it, 0: "
        f"ordinary; a plateau from 0.50). Chosen is the medoid of the best tenth by the mean of "
        f"{choice['neighbours']} neighbours (trials {', '.join(map(str, choice['plateau']))}): "
        "the best of many noisy results owes its place to its noise, the middle of a good region "
        "does not, and stays good where tomorrow's best point lies a little beside it."
    )


def _importance(record: Record) -> str:
    found = {name: one for name, one in record["importance"].items() if one}
    if not found:
        return ""
    names = list(found)
    lines = [
        "## Importance",
        "",
        f"| parameter | {' | '.join(TITLES[name] for name in names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    keys = sorted(record["space"], key=lambda key: -max(found[name].get(key, 0) for name in names))
    for key in keys:
        cells = [f"{found[name].get(key, 0.0):.2f}" for name in names]
        lines.append(f"| `{key}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _picture(kind: str) -> str:
    return f"![{kind}]({picture_name(kind)})\n\n{PICTURES[kind]}\n"


def _trials(record: Record) -> str:
    keys = list(record["space"])
    objectives = record["objectives"]
    lines = [
        "## Trials, best first",
        "",
        f"| trial | {' | '.join(TITLES[name] for name in objectives)} | neighbourhood | trades | "
        f"{' | '.join(key.rpartition('.')[2] for key in keys)} |",
        f"|---:|{'---:|' * (len(objectives) + 2 + len(keys))}",
    ]
    scores, means = record["choice"]["scores"], record["choice"]["neighbourhood_means"]
    order = sorted(record["history"], key=lambda one: -scores[str(one["number"])])
    for one in [one for one in order if one["whole"] and one["feasible"]][:20]:
        cells = [_number(value) for value in one["values"]]
        cells += [_number(means[str(one["number"])]), str(one["facts"]["trades"])]
        cells += [_value(one["params"][key]) for key in keys]
        lines.append(f"| {one['number']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _origin(record: Record) -> str:
    origin, spent = record["provenance"], record["resources"]
    return (
        f"LeviBot {origin['version']}, data `{origin['data'][:16]}`, seed {origin['seed']}, "
        f"question `{origin['question'][:16]}`. {spent['seconds']['total']:.0f} s with "
        f"{spent['workers']} worker(s) in the last call, {spent['trial_seconds']:.0f} s in all "
        f"trials together; {spent['peak_memory_mb']:.0f} MB in the leading process."
    )


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.2f}" if abs(value) >= 0.2 else f"{value:.4f}"


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_until(record: Mapping[str, Any]) -> list[float]:
    """Return the best score among the trials until each, NaN before the first that counts."""
    scores, found, best = record["choice"]["scores"], [], float("nan")
    for one in record["history"]:
        if one["whole"] and one["feasible"]:
            best = float(np.fmax(best, scores[str(one["number"])]))
        found.append(best)
    return found

"""What a sceptic would say about a run: a short list of objections, each with its numbers.

Pure functions of a run's metrics and frames. Silence means that none of these faults was found, not
that there is none: the critic knows nothing of other regimes, nor of ideas tried elsewhere.

Severities: ``grave``, the result must not be believed or there is none; ``serious``, it may well
vanish in trading; ``minor``, worth knowing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from catalog.timestamps import NS_PER_DAY
from research.critic_case import SEVERITIES, Case, CriticConfig, Criticism, Severity
from research.critic_evidence import best_days, fold_drift, implied_information_ratio
from research.overfitting import SharpeMoments, minimum_track_record
from research.performance import net_return, sharpe
from research.report import estimate_of

_NS_PER_MINUTE = NS_PER_DAY // 1440


def criticise(case: Case, config: CriticConfig | None = None) -> tuple[Criticism, ...]:
    """Return what a sceptic would say, the gravest first.

    Parameters
    ----------
    case : Case
        The run.
    config : CriticConfig, optional
        Where the lines are drawn.
    """
    config = CriticConfig() if config is None else config
    checks = _ON_PREDICTIONS if case.daily is None else (*_ON_PREDICTIONS, *_ON_TRADES)
    found = [one for check in checks for one in check(case, config)]
    return tuple(sorted(found, key=lambda one: SEVERITIES.index(one.severity)))


def _said(key: str, severity: Severity, text: str, **evidence: float) -> Criticism:
    numbers = {
        name: float(value) if math.isfinite(value) else None for name, value in evidence.items()
    }
    return Criticism(key, severity, text, numbers)


def _leak(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    """Object to an AUC that no honest model reaches; on made-up data an edge was planted."""
    auc = case.prediction("auc")
    minutes = case.horizon_ns / _NS_PER_MINUTE
    limit = config.fast_auc if minutes <= config.fast_minutes else config.auc
    # Without an interval (a single day) the value must do.
    surely = auc.value if math.isnan(auc.low) else auc.low
    if case.metrics["provenance"]["synthetic"] or not surely > limit:
        return
    ratio = implied_information_ratio(auc.value, case.horizon_ns)
    yield _said(
        "leak",
        "grave",
        f"An AUC of {auc.value:.3f} over {_length(case.horizon_ns)} is too good: above "
        f"{limit:.2f} one finds leaks, not edges. Taken at its word it is an information ratio of "
        f"{ratio:.0f} a year before costs. Run `levibot audit lookahead` and look at what the "
        "features know.",
        auc=auc.value,
        auc_low=auc.low,
        limit=limit,
        information_ratio=ratio,
    )


def _length(ns: int) -> str:
    minutes = ns / _NS_PER_MINUTE
    if minutes < 120.0:
        return f"{minutes:g} minutes"
    return f"{minutes / 60.0:g} hours" if minutes < 2880.0 else f"{minutes / 1440.0:g} days"


def _skill(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    auc, skill = case.prediction("auc"), case.prediction("log_loss_skill")
    if not auc.low > 0.5:
        yield _said(
            "no_skill",
            "grave",
            f"The predictions cannot be told from chance: AUC {auc}.",
            auc=auc.value,
            auc_low=auc.low,
            auc_high=auc.high,
        )
    elif not skill.low > 0.0:
        yield _said(
            "no_skill",
            "serious",
            "The probabilities cannot be shown to say more than the base rate: log-loss skill "
            f"{skill}.",
            skill=skill.value,
            skill_low=skill.low,
            skill_high=skill.high,
        )


def _simple_models(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    own = case.prediction("log_loss_skill").value
    for name, found in case.metrics.get("references", {}).items():
        other = estimate_of(found["log_loss_skill"]).value
        # The base rate has a skill of zero: whoever does not beat it was told so above.
        if other >= own and other > 0.0:
            yield _said(
                "benchmark",
                "serious",
                f"The {name} says as much on the same rows: log-loss skill {100 * other:.2f} % "
                f"against {100 * own:.2f} %.",
                skill=own,
                reference_skill=other,
            )


def _tail(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    tail = case.tail
    if tail is None or abs(tail.gap.value) <= config.tail_gap_frac:
        return
    if tail.gap.low > 0.0 or tail.gap.high < 0.0:
        too = "over" if tail.gap.value > 0.0 else "under"
        yield _said(
            "calibration_tail",
            "serious" if tail.gap.value > 0.0 else "minor",
            f"The most confident {100 * tail.coverage_frac:.0f} % of the predictions are {too}"
            f"confident: they say {100 * tail.said:.1f} % and are right in "
            f"{100 * tail.right:.1f} %, and sizes follow what they say.",
            said=tail.said,
            right=tail.right,
            gap=tail.gap.value,
            gap_low=tail.gap.low,
            gap_high=tail.gap.high,
        )


def _drift(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    folds = [estimate_of(fold["prediction"]["auc"]) for fold in case.metrics["folds"]]
    drift = fold_drift(folds)
    values = [one.value for one in folds]
    fades = drift.p_trend < config.p and drift.slope < 0.0
    if fades or min(drift.p_equal, drift.p_trend) < config.p:
        yield _said(
            "drift",
            "serious" if fades or min(values) < 0.5 else "minor",
            f"The skill {'fades from fold to fold' if fades else 'differs between folds'} by more "
            f"than chance allows (p = {min(drift.p_equal, drift.p_trend):.2g}): AUC "
            f"{values[0]:.3f} in the first, {values[-1]:.3f} in the last, {min(values):.3f} to "
            f"{max(values):.3f} in all.",
            p_equal=drift.p_equal,
            p_trend=drift.p_trend,
            slope=drift.slope,
            lowest=min(values),
            highest=max(values),
        )
    if not case.earns or len(folds) < 2:
        return
    results = [estimate_of(fold["trading"]["net_return"]).value for fold in case.metrics["folds"]]
    winning = sum(result > 0.0 for result in results)
    if 2 * winning <= len(results):
        yield _said(
            "drift",
            "serious",
            f"Only {winning} of {len(results)} folds earned anything; the best one "
            f"{100 * max(results):+.1f} %, the worst {100 * min(results):+.1f} %.",
            winning=winning,
            folds=len(results),
            best=max(results),
            worst=min(results),
        )


def _few_trades(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    trades = case.trades
    if trades >= config.few_trades:
        return
    grave = trades < config.very_few_trades
    text = "It never traded: there is no result." if trades == 0 else (
        f"{trades} trades are too few to judge a strategy by; the mean of so many is known to "
        f"about {100 / math.sqrt(trades):.0f} % of a trade's own spread."
    )  # fmt: skip
    yield _said("few_trades", "grave" if grave else "serious", text, trades=trades)


def _few_days(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    assert case.daily is not None
    if not case.earns or len(case.daily.returns) <= config.best_days:
        return
    found = best_days(case.daily, config.best_days)
    evidence = {
        "days": config.best_days,
        "share": found.share,
        "expected_share": found.expected_share,
        "without": found.without,
    }
    told = (
        f"{found.share:.0%} of the profit came in the best {config.best_days} of "
        f"{len(case.daily.returns)} days (days like these, normally spread, would give "
        f"{found.expected_share:.0%})"
    )
    if found.without <= 0.0:
        text = f"{told}; without them it loses {-100 * found.without:.1f} %."
        yield _said("few_days", "serious", text, **evidence)
    elif found.share > max(0.5, 1.5 * found.expected_share):
        yield _said("few_days", "minor", f"{told}.", **evidence)


def _costs(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    if case.trades == 0:
        return
    result = case.trading("net_return").value
    stress = case.metrics.get("stress") or {}
    even = stress.get("break_even")
    if result <= 0.0:
        earned = even is not None and even > 0.0
        text = (
            f"It loses {-100 * result:.1f} % after costs: its trades would have paid for "
            f"{even:.2f} times their fees and slippage."
            if earned
            else f"It loses {-100 * result:.1f} %, before costs as well."
        )
        key = "costs" if earned else "loss"
        yield _said(key, "grave", text, net_return=result, break_even=even or 0.0)
    elif even is not None and even < config.safe_break_even:
        yield _said(
            "costs",
            "serious" if even < config.break_even else "minor",
            f"It lives on its costs being right: the profit is gone at {even:.2f} times the "
            "assumed fees and slippage.",
            break_even=even,
            net_return=result,
        )


def _delay(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    rows = {row["name"]: row for row in (case.metrics.get("stress") or {}).get("rows", ())}
    late = rows.get("one bar later")
    if late is None or not case.earns or case.trades == 0:
        return
    before, after = case.trading("net_return").value, estimate_of(late["net_return"]).value
    if after > 0.5 * before:
        return
    severity: Severity = "serious" if after <= 0.0 else "minor"
    yield _said(
        "delay",
        severity,
        f"A bar too late and the profit {'is gone' if after <= 0.0 else 'is less than half'}: "
        f"{100 * after:+.1f} % instead of {100 * before:+.1f} %. What fades as fast is paid to "
        "those who are faster, or was never there at the prices assumed.",
        net_return=before,
        one_bar_later=after,
    )


def _benchmarks(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    assert case.daily is not None
    own, ratio = net_return(case.daily), sharpe(case.daily.returns)
    for name, held in case.benchmarks.items():
        other, other_ratio = net_return(held), sharpe(held.returns)
        # A strategy that holds little may earn less and still be better for its risk.
        less, worse = not own > other, not ratio > other_ratio
        if case.trades == 0 or not (less or worse):
            continue
        for_what = "" if less and worse else " by its return alone" if less else " for its risk"
        yield _said(
            "benchmark",
            "serious" if less and worse else "minor",
            f"{name[:1].upper()}{name[1:]} did better{for_what}: {100 * other:+.1f} % against "
            f"{100 * own:+.1f} %, at a Sharpe ratio of {other_ratio:.2f} against {ratio:.2f}.",
            net_return=own,
            benchmark_return=other,
            sharpe=ratio,
            benchmark_sharpe=other_ratio,
        )


def _shuffled(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    found = case.shuffled
    if found is None or not case.earns or not found.p >= config.p:
        return
    yield _said(
        "shuffled_signal",
        "serious",
        f"The same trades at other times earn as much before costs in {found.p:.0%} of "
        f"{len(found.drawn)} shuffles: the timing is not shown to matter.",
        p=found.p,
        observed=found.observed,
        shuffled_mean=float(found.drawn.mean()),
    )


def _track_record(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    assert case.daily is not None
    if not case.earns:
        return
    moments = SharpeMoments.of(case.daily.returns)
    needed = minimum_track_record(moments, confidence=1.0 - config.p)
    if needed <= moments.observations:
        return
    # It earns, so that the ratio is above zero where it is defined at all.
    why = (
        "a Sharpe ratio cannot even be judged by them"
        if math.isnan(needed)
        else f"at this Sharpe ratio it takes {needed:,.0f} to be {1.0 - config.p:.0%} sure that "
        "the true one is above zero"
    )
    yield _said(
        "short_record",
        "serious",
        f"{moments.observations} days are too short a record: {why}.",
        days=moments.observations,
        needed=needed,
        sharpe_per_day=moments.sharpe,
    )


def _trials(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    trials = case.metrics.get("trials") or {}
    chance, count = trials.get("dsr"), trials.get("count")
    if chance is None or count is None or not case.earns:
        return
    # Of one trial it is the probabilistic Sharpe ratio, about which `_track_record` speaks.
    if count <= 1 or chance >= 1.0 - config.p:
        return
    yield _said(
        "trials",
        "serious",
        f"After {count:g} trials on these data such a Sharpe ratio is no surprise: the chance that "
        f"it is more than the luck of the best is {chance:.0%} (deflated Sharpe ratio).",
        trials=count,
        deflated_sharpe=chance,
    )


def _sensitivity(case: Case, config: CriticConfig) -> Iterator[Criticism]:
    for sweep in case.sweeps:
        spike = sweep.spike()
        if spike is None:
            continue
        alone = spike.beside < 0.5 * spike.chosen
        told = (
            f"The choice of {sweep.parameter} is a spike, not a plateau"
            if alone
            else f"The choice of {sweep.parameter} stands at an edge"
        )
        yield _said(
            "sensitivity",
            "serious" if spike.beside <= 0.0 else "minor",
            f"{told}: {sweep.measure} is {spike.chosen:.3g} at {sweep.chosen:g}, "
            f"{spike.beside:.3g} on average at "
            f"{', '.join(f'{value:g}' for value in spike.neighbours)} and {spike.worst:.3g} at the "
            "worse of those right beside it.",
            chosen=spike.chosen,
            beside=spike.beside,
            worst=spike.worst,
        )


type _Check = Callable[[Case, CriticConfig], Iterator[Criticism]]
_ON_PREDICTIONS: tuple[_Check, ...] = (_leak, _skill, _simple_models, _tail, _drift)
_ON_TRADES: tuple[_Check, ...] = (
    *(_costs, _few_trades, _trials, _track_record, _few_days, _delay),
    *(_benchmarks, _shuffled, _sensitivity),
)

"""Tuning on what was known before the profile's test: run, resumed, reported.

================  ==================================================================
trials.journal    every trial, as soon as it is done (or a database elsewhere)
folds/, features/ predictions and features, kept under the hash of what decided them
space.yaml        the parameters that were searched
profile.yaml      the chosen configuration, for `levibot walkforward` and `levibot train`
tuning.json       all numbers
tuning.md         the same for people, with pictures beside it
================  ==================================================================

Nothing after `validation.test_start` of the profile is read, so that its own folds judge what is
chosen here as if nobody had looked at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from catalog.errors import ConfigError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from live.pipeline import train_bundle
from live.profile import dump_profile
from live.runs import PROFILE_FILE, Stopwatch, code_version, finite, peak_memory_mb
from live.study_sessions import alone, json_bytes, write_whole
from live.trial_records import verdict_of
from live.tuning_store import (
    BASELINE,
    JOURNAL_FILE,
    WORKERS_LOCK,
    finished,
    mend_journal,
    no_orphans,
    open_study,
    revive,
    tuned_trials,
)
from live.tuning_trial import FEATURES_FOLDER, FOLDS_FOLDER, Bench, RefusedError
from live.tuning_work import work
from research.trial_ledger import TrialLedger
from research.tuning import choose
from research.tuning_plots import tuning_pictures
from research.tuning_report import picture_name, tuning_markdown, tuning_record

if TYPE_CHECKING:
    import optuna

    from live.tuning_request import TuningRequest
    from research.tuning import TunedTrial

TUNING_FILE, PAGE_FILE, SPACE_FILE = "tuning.json", "tuning.md", "space.yaml"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class TuningSummary:
    """Where a tuning lies, and what it has chosen."""

    folder: Path
    record: dict[str, Any]
    bundle: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what programs want to know."""
        parts = ("counts", "choice", "chosen", "trials", "baseline", "resources")
        told = {
            "folder": str(self.folder),
            "profile": str(self.folder / PROFILE_FILE),
            "bundle": None if self.bundle is None else str(self.bundle),
            **{name: self.record[name] for name in parts},
        }
        return {name: finite(one) for name, one in told.items()}

    def __str__(self) -> str:
        chosen, profile = self.record["chosen"], self.folder / PROFILE_FILE
        told = ", ".join(f"{key} {one}" for key, one in chosen["params"].items())
        lines = [
            f"trial {chosen['number']} of {self.record['counts']['trials']} chosen: {told}",
            f"report: {self.folder / PAGE_FILE}",
            f"judge it: levibot walkforward --profile {profile}",
        ]
        if self.bundle is not None:
            lines.append(f"bundle: {self.bundle}")
        return "\n".join(lines)


def run_tuning(
    request: TuningRequest, *, bundle: Path | None = None, progress: Progress = no_progress
) -> TuningSummary:
    """Try what is missing of a tuning, choose a configuration and write the report.

    Parameters
    ----------
    request : TuningRequest
        What is asked; asked again of the same folder, it goes on.
    bundle : Path, optional
        New folder for a bundle of the chosen configuration, trained on what was known at the
        profile's test start, so that `levibot evaluate` may judge it on everything after.
    progress : Progress
        Told of the stages ``features``, ``trials`` and of the bundle's fits.

    Raises
    ------
    ConfigError
        If the folder is of something else or another process works there.
    DataError, RunFailedError
        If a trial fails, or none could be judged; what is done until then is kept.
    """
    if bundle is not None and bundle.exists():
        raise ConfigError(f"--bundle must be a new folder, {bundle} exists; choose another name")
    _check_folder(request.out)
    TrialLedger(request.ledger).check()
    watch = Stopwatch()
    with alone(request.out), no_orphans(request.out):
        mend_journal(request.out)
        with watch.stage("load"):
            bench = Bench.open(request, progress)
        question = request.question(bench.market.panel.data_hash)
        study = open_study(request, question)
        if request.options.storage is None:
            revive(study)
        with watch.stage("trials"):
            baseline = _baseline(study, bench)
            work(request, bench, question, progress)
        with watch.stage("report"):
            record = _record(request, study, bench, baseline, watch)
            _write(request, record)
    if bundle is not None:
        tuned = request.tuned_profile(record["chosen"]["params"])
        until = format_time(tuned.validation.test_start)
        train_bundle(tuned, request.catalog, until, bundle, progress=progress)
    return TuningSummary(request.out, record, bundle)


def _baseline(study: optuna.Study, bench: Bench) -> dict[str, Any]:
    """Return what the profile is worth as it is, judged like a trial, once."""
    known: dict[str, Any] | None = study.user_attrs.get(BASELINE)
    if known is None:
        try:
            found = bench.evaluate({}, lambda _fold, _running: False)
        except RefusedError as error:
            if error.trial is not None:
                bench.record(error.trial)
            raise ConfigError(
                "the profile must be one that can be judged before its own test begins, is not: "
                f"{error}; change it, or --folds and --tested-frac, which say where the folds of "
                "a tuning lie"
            ) from error
        bench.record(found.trial)
        known = found.facts()
        study.set_user_attr(BASELINE, known)
    return known


def _record(
    request: TuningRequest,
    study: optuna.Study,
    bench: Bench,
    baseline: dict[str, Any],
    watch: Stopwatch,
) -> dict[str, Any]:
    trials = tuned_trials(study, request)
    choice = choose(trials, request.space)
    by_number = {one.number: one for one in trials}
    chosen = by_number[choice.chosen]
    panel, inner = bench.market.panel, request.inner_profile()
    refused = len(finished(study)) - len(trials)
    return tuning_record(
        trials,
        choice,
        request.space,
        objectives=request.objectives,
        seed=request.seed,
    ) | {
        "schema": SCHEMA,
        "profile": request.content["name"],
        "objective": request.options.objective,
        "market": {
            "instruments": list(panel.instruments()),
            "interval": inner.data.interval,
            "from": format_time(inner.data.start),
            "to": format_time(inner.data.end),
            "tested_from": format_time(inner.validation.test_start),
            "folds": inner.validation.n_folds,
        },
        "synthetic": panel.synthetic,
        "counts": {
            "trials": len(finished(study)),
            "whole": sum(one.whole for one in trials),
            "given_up": sum(not one.whole for one in trials),
            "refused": refused,
            "too_few_trades": sum(one.whole and not one.feasible for one in trials),
            "fits": len({one.fit for one in trials}),
            "min_trades": request.options.min_trades if request.trades else 0,
            "trials_per_fit": request.options.trials_per_fit,
        },
        "baseline": baseline,
        "trials": _verdict(request, chosen),
        "resources": {
            "seconds": watch.total(),
            "trial_seconds": round(sum(sum(one.facts["seconds"].values()) for one in trials), 3),
            "workers": request.options.workers or "all",
            "peak_memory_mb": peak_memory_mb(),
        },
        "provenance": {
            "version": code_version(),
            "data": panel.data_hash,
            "question": request.question(panel.data_hash),
            "seed": request.seed,
            "chosen_profile": request.tuned_profile(dict(chosen.params)).content_hash(),
        },
    }


def _verdict(request: TuningRequest, chosen: TunedTrial) -> dict[str, Any] | None:
    """Return what the ledger leaves of the chosen trial's Sharpe ratio.

    None where the ledger is another one than that it was recorded in.
    """
    ledger = TrialLedger(request.ledger)
    found = [one for one in ledger.read().trials if one.id == chosen.facts["trial"]]
    return verdict_of(ledger, found[0]) if found else None


def _write(request: TuningRequest, record: dict[str, Any]) -> None:
    """Write pictures, page, profile and numbers, each whole or not at all."""
    out = request.out
    for kind, picture in tuning_pictures(record, request.space).items():
        write_whole(out / picture_name(kind), picture)
    tuned = request.tuned_profile(record["chosen"]["params"])
    write_whole(out / PROFILE_FILE, dump_profile(tuned).encode())
    space = yaml.safe_dump(request.space.model_dump(mode="json"), sort_keys=False)
    write_whole(out / SPACE_FILE, space.encode())
    write_whole(out / PAGE_FILE, tuning_markdown(record).encode())
    write_whole(out / TUNING_FILE, json_bytes(record))


def _check_folder(out: Path) -> None:
    """Refuse a folder of something else; make the tuning's."""
    own = {JOURNAL_FILE, FOLDS_FOLDER, FEATURES_FOLDER, PROFILE_FILE, SPACE_FILE}
    own |= {TUNING_FILE, PAGE_FILE, WORKERS_LOCK}
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be a folder: {error.strerror}") from error
    strangers = sorted(name for name in names - own if not name.startswith("tuning-"))
    if strangers:
        raise ConfigError(
            f"--out must be a new folder or a tuning's, {out} holds {', '.join(strangers[:3])}; "
            "choose another"
        )

"""The study that shows what each expert, fusion and input is worth: run, resumed, written.

================  ==================================================================
folds/NAME/       predictions of every fold of a walk-forward, kept as soon as it is done
sessions.json     what has been run so far: time, memory, configurations tried
study.json        all numbers, and the hashes that reproduce them
study.md          the same for people, with pictures beside it
profile.yaml      the complete profile
================  ==================================================================
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import ConfigError, LeviBotError
from catalog.progress import Progress, no_progress
from catalog.store import Catalog
from catalog.timestamps import format_time
from live.profile import Profile, dump_profile
from live.runs import (
    PROFILE_FILE,
    code_version,
    keep_large_blocks_apart,
    release_memory,
)
from live.study_request import StudyRequest
from live.study_sessions import SESSIONS_FILE, Session, Sessions, alone, json_bytes, write_whole
from live.trial_records import ledger_of, trial_of_variant
from research.code_identity import library_versions
from research.features import panel_needs
from research.fitting import FitOptions
from research.fold_store import FoldQuestion, FoldStore, joined
from research.models.registry import expert_kind
from research.panel import Panel, load_panel
from research.panel_series import PanelNeeds
from research.predictions import hash_parts
from research.study import horizon_record
from research.study_effects import expert_effects, input_effects, joined_pair
from research.study_inputs import INPUTS
from research.study_plan import (
    StudyMarket,
    StudyPlan,
    Variant,
    plan_study,
)
from research.study_plots import study_pictures
from research.study_report import picture_name, study_markdown
from research.study_tables import Record, date_of, forecasts_of, measures
from research.walkforward import predict_forward

if TYPE_CHECKING:
    import pandas as pd

STUDY_FILE = "study.json"
PAGE_FILE = "study.md"
FOLDS_FOLDER = "folds"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class StudySummary:
    """Where a study lies, and its page."""

    folder: Path
    record: Record

    def to_json(self) -> Record:
        """Return what programs want to know."""
        return {
            "folder": str(self.folder),
            "missing": self.record["missing"],
            "trials": self.record["trials"],
            "experts": {h: one["experts"] for h, one in self.record["horizons"].items()},
            "inputs": self.record["inputs"],
        }

    def __str__(self) -> str:
        missing = self.record["missing"]
        end = f"; still to be run: {', '.join(missing)}" if missing else ""
        return f"study written to {self.folder / PAGE_FILE}{end}"


def run_study(
    profile: Profile,
    catalog: Path,
    out: Path,
    request: StudyRequest,
    *,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = no_progress,
) -> StudySummary:
    """Run what is missing of a study and write its tables.

    Folds that are kept in `out` for the very same question are read; whatever a changed profile,
    other data or other code touches is fitted anew, and `tell` is given the reason.

    Parameters
    ----------
    profile : Profile
        The configuration under study.
    catalog : Path
        Data.
    out : Path
        Folder of the study; made if it is not there.
    request : StudyRequest
        What is studied.
    tell : callable
        Given remarks, one sentence each.
    progress : Progress
        Told of the stage ``study`` and of the walk-forwards' own.

    Raises
    ------
    ConfigError
        If `out` is another kind of folder or another process works there, or nothing may be run
        and nothing is there.
    IntegrityError
        If the record of what was run is damaged.
    DataError, RunFailedError
        If a walk-forward fails; what is done until then is kept.
    """
    keep_large_blocks_apart()
    job = _Study.open(profile, catalog, out, request, tell)
    if not request.report_only:
        ledger_of(catalog).check()
    job.load()
    # A report of what is there writes no fold, and may be made while another process does.
    with contextlib.nullcontext() if request.report_only else alone(out):
        if request.fresh:
            job.forget()
        done: dict[str, FoldStore] = {}
        variants = job.plan.variants
        for number, variant in enumerate(variants):
            progress("study", number, len(variants))
            store = job.run(variant, progress)
            if store is not None:
                done[variant.name] = store
        progress("study", len(variants), len(variants))
        record = job.record(done)
        job.write(record)
    return StudySummary(out, record)


@dataclass(frozen=True, slots=True)
class _Study:
    """A study in its folder."""

    profile: Profile
    store: Catalog
    out: Path
    request: StudyRequest
    plan: StudyPlan
    sessions: Sessions
    tell: Callable[[str], None]
    panels: dict[tuple[PanelNeeds, int], Panel] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        profile: Profile,
        catalog: Path,
        out: Path,
        request: StudyRequest,
        tell: Callable[[str], None],
    ) -> _Study:
        store = Catalog.open(catalog)
        data = profile.data
        plan = plan_study(
            profile.walk_forward_config(),
            StudyMarket(data.instruments, data.interval, data.start, data.end),
            request.study,
            {(info.kind, info.series) for info in store.series()},
            request.default_experts or None,
        )
        _check_folder(out, must_exist=request.report_only)
        sessions = Sessions.read(out)
        for name, why in plan.left_out.items():
            tell(f"{name} is not studied: {why}")
        return cls(profile, store, out, request, plan, sessions, tell)

    def forget(self) -> None:
        """Throw kept folds away, and nothing else."""
        for path in (self.out / FOLDS_FOLDER).glob("*/fold-*"):
            if path.suffix in (".parquet", ".json"):
                path.unlink()

    def run(self, variant: Variant, progress: Progress) -> FoldStore | None:
        """Run what is missing of a walk-forward; None if it is not whole and nothing may be run."""
        config = variant.config
        panel = self._panel(variant)
        options = FitOptions(progress, variant.alternatives, subsets=variant.subsets)
        question = FoldQuestion.of(panel, config, options)
        keep = FoldStore(self.out / FOLDS_FOLDER / variant.name, question, self.tell)
        count = config.validation.n_folds
        if keep.holds(count):
            self._remember(variant, keep, panel)
            return keep
        if self.request.report_only:
            for index in range(count):
                keep.has(index)  # tells why it does not count
            return None
        session = self.sessions.begin(variant.name, question.key, config.threads)
        options = options._replace(progress=_noting(session, count, progress))
        try:
            predict_forward(panel, config, options, keep=keep)
        except LeviBotError as error:
            error.add_note(
                f"in the walk-forward {variant.name}; folds that were done are kept: run the "
                "command again to go on"
            )
            raise
        finally:
            session.note(sum(keep.holds_fold(index) for index in range(count)))
            release_memory()
        self._remember(variant, keep, panel)
        return keep

    def _remember(self, variant: Variant, keep: FoldStore, panel: Panel) -> None:
        """Record a walk-forward that is whole; one that is recorded already is found there."""
        if not self.request.report_only:
            trial = trial_of_variant(
                self.profile, self.request.command, variant, keep, synthetic=panel.synthetic
            )
            ledger_of(self.store.path).append([trial])

    def load(self) -> None:
        """Read all data: what is missing for the last walk-forward is told before the first."""
        for variant in self.plan.variants:
            try:
                self._panel(variant)
            except LeviBotError as error:
                error.add_note(
                    f"the walk-forward {variant.name} needs it; change the profile, or leave its "
                    "input out of --ablations"
                )
                raise

    def _panel(self, variant: Variant) -> Panel:
        """Return a walk-forward's data, read once for all that look at the same."""
        data, needs = self.profile.data, panel_needs(variant.config.features)
        if (needs, variant.end) not in self.panels:
            self.panels[needs, variant.end] = load_panel(
                self.store, data.instruments, data.interval, data.start, variant.end, needs=needs
            )
        return self.panels[needs, variant.end]

    def record(self, done: Mapping[str, FoldStore]) -> Record:
        """Return all tables of what is done."""
        study = self.request.study
        missing = [one.name for one in self.plan.variants if one.name not in done]
        horizons, news, inputs = {}, {}, {}
        for variant in self.plan.variants:
            if variant.name not in done or not variant.alternatives:
                continue
            horizon, frame = str(variant.horizon), self._frame(done, variant.name)
            if variant.name == f"h{horizon}":
                horizons[horizon] = self._horizon(frame, variant)
            else:
                news[horizon] = self._news(frame, variant)
            del frame
            release_memory()
        if not horizons:
            raise ConfigError(
                f"a study must have one horizon's experts done, {self.out} has none; run it "
                "without --report-only"
            )
        for one in study.horizons:
            inputs[str(one)] = self._inputs(one, done)
        data = self.profile.data
        return {
            "schema": SCHEMA,
            "profile": self.profile.name,
            "settings": study.model_dump(mode="json"),
            "market": {
                "instruments": list(data.instruments),
                "interval": data.interval,
                "from": format_time(data.start),
                "to": format_time(data.end),
            },
            "synthetic": self.store.is_synthetic(data.instruments),
            "horizons": horizons,
            "inputs": inputs,
            "news": news,
            "switches": self._switches(),
            "left_out": dict(self.plan.left_out),
            "missing": missing,
            "trials": self.sessions.trials(),
            "resources": self._resources(done),
            "provenance": self._provenance(done),
        }

    def _frame(self, done: Mapping[str, FoldStore], name: str) -> pd.DataFrame:
        variant = next(one for one in self.plan.variants if one.name == name)
        return predict_kept(done[name], variant)

    def _horizon(self, frame: pd.DataFrame, variant: Variant) -> Record:
        return horizon_record(
            frame,
            tuple(variant.subsets),
            self.profile.bootstrap,
            self.request.study.comparison,
            threads=self.profile.threads,
        )

    def _news(self, frame: pd.DataFrame, variant: Variant) -> Record:
        forecasts = forecasts_of(frame, tuple(variant.subsets))
        experts = [one.name for one in forecasts if one.kind == "expert"]
        bootstrap = self.profile.bootstrap
        return {
            "rows": int(frame["label"].notna().sum()),
            "from": date_of(int(frame["ts_init"].min())),
            "to": date_of(int(frame["ts_init"].max())),
            "measures": measures(frame, forecasts, bootstrap, threads=self.profile.threads),
            "experts": expert_effects(frame, experts, self.request.study.comparison),
        }

    def _inputs(self, horizon: int, done: Mapping[str, FoldStore]) -> list[Record]:
        pairs = {}
        for pair in self.plan.pairs:
            if pair.horizon == horizon and {pair.with_it, pair.without} <= set(done):
                with_it, without = self._frame(done, pair.with_it), self._frame(done, pair.without)
                rows = joined_pair(with_it, without, pair.columns)
                pairs[pair.name] = (rows, tuple(pair.columns))
        return input_effects(pairs, self.request.study.comparison, self.profile.bootstrap)

    def _switches(self) -> Record:
        return {
            pair.name: {"what": INPUTS[pair.name], "on": pair.is_on} for pair in self.plan.pairs
        }

    def _resources(self, done: Mapping[str, FoldStore]) -> Record:
        rows, keys = [], {store.question.key for store in done.values()}
        for variant in self.plan.variants:
            if variant.name not in done:
                continue
            count = variant.config.validation.n_folds
            facts = [done[variant.name].facts(index) for index in range(count)]
            steps = sorted({step for one in facts for step in one["seconds"]})
            rows.append(
                {
                    "variant": variant.name,
                    "folds": count,
                    "wall": round(self.sessions.seconds(done[variant.name].question.key), 3),
                    "seconds": {
                        step: round(sum(one["seconds"].get(step, 0.0) for one in facts), 3)
                        for step in steps
                    },
                    "peak_memory_mb": max(one["peak_memory_mb"] for one in facts),
                }
            )
        total = round(sum(row["wall"] for row in rows), 3)
        return {"wall": total, "threads": self.sessions.threads(keys), "variants": rows}

    def _provenance(self, done: Mapping[str, FoldStore]) -> Record:
        deep = any(
            expert_kind(name).deep for name in self.profile.walk_forward_config().experts.chosen()
        )
        return {
            "command": self.request.command,
            "version": code_version(),
            "python": platform.python_version(),
            "libraries": library_versions(deep=deep),
            "profile_hash": self.profile.content_hash(),
            "variants": [
                _identity(variant, done[variant.name])
                for variant in self.plan.variants
                if variant.name in done
            ],
        }

    def write(self, record: Record) -> None:
        """Write pictures, page, numbers; each whole or not at all. Older pictures go."""
        drawn = set()
        for horizon, found in record["horizons"].items():
            for kind, picture in study_pictures(found).items():
                path = self.out / picture_name(kind, horizon)
                write_whole(path, picture)
                drawn.add(path)
        write_whole(self.out / PROFILE_FILE, dump_profile(self.profile).encode())
        write_whole(self.out / PAGE_FILE, study_markdown(record).encode())
        write_whole(self.out / STUDY_FILE, json_bytes(record))
        for path in set(self.out.glob(picture_name("*", "*"))) - drawn:
            path.unlink()


def predict_kept(keep: FoldStore, variant: Variant) -> pd.DataFrame:
    """Return the predictions of a walk-forward all of whose folds are kept."""
    return joined(keep, range(variant.config.validation.n_folds))


def _identity(variant: Variant, keep: FoldStore) -> Record:
    """Return the hashes that a walk-forward's predictions are reproduced by."""
    question = keep.question
    code = {
        name: digest
        for name, digest in question.parts.items()
        if name.startswith("code of ") or name == "libraries"
    }
    reports = [keep.facts(index) for index in range(variant.config.validation.n_folds)]
    return {
        "name": variant.name,
        "spec": question.spec.spec_hash,
        "data": question.data_hash,
        "code": hash_parts(code),
        "key": question.key,
        "parts": question.parts,
        "folds": keep.hashes(variant.config.validation.n_folds),
        "chosen": [
            {
                "fold": one["fold"],
                "calibration": one["calibration"],
                "fusion": None if one["fusion"] is None else one["fusion"]["chosen"],
            }
            for one in reports
        ],
    }


def _noting(session: Session, count: int, progress: Progress) -> Progress:
    """Return a progress that also notes each fold as it is done, should the process be killed."""

    def told(stage: str, done: int, total: int) -> None:
        if stage == "folds":
            session.note(count - total + done)
        progress(stage, done, total)

    return told


def _check_folder(out: Path, *, must_exist: bool) -> None:
    """Refuse a folder of something else; make the study's."""
    own = {STUDY_FILE, SESSIONS_FILE, FOLDS_FOLDER}
    if must_exist and not out.exists():
        raise ConfigError(f"--out must be a study's folder for --report-only, {out} does not exist")
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be a folder: {error.strerror}") from error
    strangers = sorted(
        name for name in names - own - {PAGE_FILE, PROFILE_FILE} if not name.startswith("study-")
    )
    if not names & own:
        strangers = sorted(names)
    if strangers:
        raise ConfigError(
            f"--out must be a new folder or a study's, {out} holds {', '.join(strangers[:3])}; "
            "choose another"
        )

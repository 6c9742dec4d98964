"""One configuration, judged inside the training span fold by fold: fitted, replayed, recorded.

Predictions are kept under the hash of everything that decides them (`research.fold_store`), so
that configurations which only trade otherwise are fitted once, and a trial that was interrupted
goes on from the folds that it had done.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import Float64Array
from catalog.errors import ConfigError, DataError
from live.pipeline import Market, load_market
from live.runs import code_version, release_memory
from live.tuning_request import TuningRequest
from research.feature_store import FeatureStore
from research.fit_job import FitOptions, starts_warm
from research.fold_runs import run_folds
from research.fold_store import FoldQuestion, FoldStore
from research.metrics import prediction_metrics
from research.performance import daily_equity, sharpe
from research.predictions import stamp_predictions
from research.predictor import PrecomputedPredictions
from research.training_table import TrainingTable, build_table
from research.trial_ledger import TrialLedger
from research.trials import Trial, TrialData, TrialResults
from research.walkforward import usable_folds

if TYPE_CHECKING:
    import pandas as pd

    from catalog.progress import Progress
    from live.profile import Profile
    from research.features import FeatureMatrix
    from research.settings import WalkForwardConfig
    from research.splits import Fold
    from research.tuning_space import Value

FOLDS_FOLDER, FEATURES_FOLDER = "folds", "features"
_TABLES = 2

type GiveUp = Callable[[int, tuple[float, ...]], bool]
"""Asked after each fold but the last, with its number and the values so far."""


class RefusedError(Exception):
    """A configuration that cannot be: its parts contradict each other or the data.

    Parameters
    ----------
    why : str
        What is wrong with it.
    trial : Trial, optional
        Of one that was judged all the same, for the ledger: it used up its equity.
    """

    def __init__(self, why: str, trial: Trial | None = None) -> None:
        super().__init__(why)
        self.trial = trial


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a configuration was worth.

    Parameters
    ----------
    whole : bool
        Whether it saw all folds.
    running : tuple of tuple of float
        Its values after each fold, over all folds until then.
    trades : int
        Positions that were opened.
    trial : Trial
        For the ledger.
    seconds : dict of float
        Spent on fits and on replays.
    """

    whole: bool
    running: tuple[tuple[float, ...], ...]
    trades: int
    trial: Trial
    seconds: dict[str, float]

    @property
    def values(self) -> tuple[float, ...]:
        """The values over all folds that it saw."""
        return self.running[-1]

    def facts(self) -> dict[str, Any]:
        """Return what a report wants to know, for JSON."""
        results = self.trial.results
        return {
            "whole": self.whole,
            "running": [list(one) for one in self.running],
            "trades": self.trades,
            "days": results.days,
            "net_return": results.net_return,
            "sharpe": results.sharpe_annual,
            "skill": results.log_loss_skill,
            "trial": self.trial.id,
            "start": self.trial.data.start,
            "end": self.trial.data.end,
            "seconds": {name: round(spent, 3) for name, spent in self.seconds.items()},
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the folds so far have shown."""

    frames: list[pd.DataFrame] = field(default_factory=list)
    returns: list[Float64Array] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    trades: list[int] = field(default_factory=list)

    def skill(self) -> float:
        import pandas as pd

        pooled = pd.concat(self.frames, ignore_index=True)
        found = prediction_metrics(pooled, samples=0)["log_loss_skill"].value
        if not math.isfinite(found):
            raise RefusedError("its labels all say the same: there is no skill to measure")
        return found

    @property
    def ruined(self) -> bool:
        """Whether a fold used up its equity, after which there are no returns."""
        return any(not np.isfinite(one).all() for one in self.returns)

    def sharpe(self) -> float:
        """Return the annual Sharpe ratio; 0 where nothing was traded, for it earned nothing."""
        found = sharpe(np.concatenate(self.returns))
        return found if math.isfinite(found) else 0.0

    def results(self, *, traded: bool, skill: float) -> TrialResults:
        if not traded:
            return TrialResults(log_loss_skill=skill)
        returns = np.concatenate(self.returns)
        earned = float(np.prod(1.0 + returns)) - 1.0
        return TrialResults.of_returns(returns, net_return=earned, log_loss_skill=skill)


@dataclass(slots=True)
class Bench:
    """The data up to the profile's test start, read once by each process.

    Parameters
    ----------
    request : TuningRequest
        What is asked.
    market : Market
        Bars and funding; nothing after the test start was read.
    matrix : FeatureMatrix
        Features, mapped from the folder of the tuning.
    """

    request: TuningRequest
    market: Market
    matrix: FeatureMatrix
    tables: dict[tuple[str, float | None], tuple[TrainingTable, list[Fold]]] = field(
        default_factory=dict
    )

    @classmethod
    def open(cls, request: TuningRequest, progress: Progress | None = None) -> Bench:
        """Read the data, and the features, which are made and kept if they are not there yet.

        Raises
        ------
        ConfigError, DataError
            As `load_market`.
        """
        profile = request.inner_profile()
        market = load_market(profile, request.catalog)
        store = FeatureStore(request.out / FEATURES_FOLDER)
        told: dict[str, Any] = {} if progress is None else {"progress": progress}
        matrix = store.matrix(market.panel, profile.walk_forward_config(), **told)
        release_memory()
        return cls(request, market, matrix)

    def evaluate(self, values: dict[str, Value], give_up: GiveUp) -> Evaluation:
        """Judge a configuration fold by fold.

        Parameters
        ----------
        values : dict
            Settings by key.
        give_up : callable
            Whether to stop after a fold.

        Raises
        ------
        RefusedError
            If it cannot be.
        DataError
            If a fold cannot be kept.
        RunFailedError
            If a fit or a replay fails.
        """
        try:
            profile = self.request.inner_profile(values)
        except ConfigError as error:
            raise RefusedError(str(error)) from error
        threads = {"threads": self.request.threads}
        config = profile.walk_forward_config().model_copy(update=threads)
        question = FoldQuestion.of(self.market.panel, config, FitOptions())
        folder = self.request.out / FOLDS_FOLDER / question.key[:32]
        keep = FoldStore(folder, question)
        seen, running, count = _Seen(), [], config.validation.n_folds
        seconds = {"fit": 0.0, "replay": 0.0}
        for index in range(count):
            with _timed(seconds, "fit"):
                self._fit(keep, config, index)
            with _timed(seconds, "replay"):
                self._see(seen, keep, profile, index)
            if seen.ruined:
                # What these data were asked counts, whatever they answered.
                trial = self._trial(profile, seen, keep)
                raise RefusedError(f"the account was ruined in fold {index}", trial)
            running.append(self._values(seen))
            if index + 1 < count and give_up(index, running[-1]):
                break
        release_memory()
        whole = len(running) == count
        trial = self._trial(profile, seen, keep)
        return Evaluation(whole, tuple(running), sum(seen.trades), trial, seconds)

    def _values(self, seen: _Seen) -> tuple[float, ...]:
        return tuple(getattr(seen, name)() for name in self.request.objectives)

    def _fit(self, keep: FoldStore, config: WalkForwardConfig, index: int) -> None:
        """Fit and keep a fold; where experts start warm, all of them, for one needs the last."""
        if keep.holds_fold(index):
            return
        with _turn(keep.folder):
            if keep.holds_fold(index):
                return
            table, folds = self._table(config)
            warm = any(starts_warm(one) for one in config.experts.chosen().values())
            wanted = folds if warm else [folds[index]]
            try:
                run_folds(table, wanted, config, FitOptions(), keep=keep)
            except (ConfigError, DataError) as error:
                if _is_of_the_machine(error):
                    raise
                # Asked again it would be drawn again: the tuning could never go on.
                raise RefusedError(str(error)) from error

    def _table(self, config: WalkForwardConfig) -> tuple[TrainingTable, list[Fold]]:
        key = (config.label.content_hash(), config.half_life_days)
        if key not in self.tables:
            while len(self.tables) >= _TABLES:
                del self.tables[next(iter(self.tables))]
            try:
                table = build_table(self.market.panel, config, matrix=self.matrix)
                self.tables[key] = table, usable_folds(table, config)
            except (ConfigError, DataError) as error:
                raise RefusedError(str(error)) from error
        return self.tables[key]

    def _see(self, seen: _Seen, keep: FoldStore, profile: Profile, index: int) -> None:
        """Take in a fold's predictions and, where that is asked, what trading on them brings."""
        facts = keep.facts(index)
        start, end = int(facts["test_start"]), int(facts["test_end"])
        frame = keep.load(index)
        seen.spans.append((start, end))
        seen.frames.append(frame[["ts_init", "label", "base_prob", "prob_up"]])
        if not self.request.trades:
            return
        # Imported here: the engine takes 60 MB, which nothing needs while models are fitted.
        from strategies.backtest import run_backtest

        question = keep.question
        stamped = stamp_predictions(frame, question.spec, question.data_hash)
        outcome = run_backtest(
            self.market.replay_inputs(start, end, len(frame)),
            PrecomputedPredictions.from_frame(stamped, question.spec),
            profile.strategy,
            profile.execution,
        )
        balance = profile.execution.starting_balance
        daily = daily_equity(outcome.equity, start=start, end=end, starting_balance=balance)
        seen.returns.append(daily.returns)
        seen.trades.append(len(outcome.positions))

    def _trial(self, profile: Profile, seen: _Seen, keep: FoldStore) -> Trial:
        request, data = self.request, profile.data
        panel = self.market.panel
        results = seen.results(traded=request.trades, skill=seen.skill())
        command: dict[str, Any] = {"name": "tune", "folds": len(seen.spans)}
        if not request.trades:
            command["objective"] = "skill"
        return Trial(
            command=command,
            profile=profile.name,
            config=profile.model_dump(mode="json"),
            data=TrialData(
                hash=keep.question.data_hash,
                instruments=data.instruments,
                interval=data.interval,
                start=seen.spans[0][0],
                end=seen.spans[-1][1],
                synthetic=panel.synthetic,
            ),
            code=code_version(),
            seed=profile.seed,
            results=results,
            parent=request.question(panel.data_hash),
        )

    def record(self, trial: Trial) -> None:
        """Add a configuration to the ledger, before anybody sees its result.

        Raises
        ------
        DataError
            If the ledger cannot be written.
        """
        TrialLedger(self.request.ledger).append([trial])


def _is_of_the_machine(error: BaseException) -> bool:
    """Return whether a file or a disk is behind an error, and not what was asked."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return True
        cause = cause.__cause__
    return False


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process fits the same folds; the system lets go when one ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    before = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - before

"""Predictions of folds that are kept as soon as a fold is done, for runs that take hours.

A kept fold says everything that decided it: the specification, the data, the code, the libraries.
Whoever asks another question gets nothing, and is told which part of it differs. Files are written
whole or not at all, and the same question gives the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import ConfigError, DataError, IntegrityError
from research.code_identity import code_parts
from research.fit_reports import fit_report
from research.panel_digest import panel_digest
from research.predictions import SPEC_KEY, hash_parts, stamp_predictions, write_predictions
from research.settings import predictor_spec

if TYPE_CHECKING:
    import pandas as pd

    from research.fitted import FittedModel
    from research.fitting import FitOptions
    from research.panel import Panel
    from research.prediction_types import PredictorSpec
    from research.settings import WalkForwardConfig
    from research.splits import Fold

KEPT_KEY = "decided_by"
"""Where a kept fold's stamp says what decided it, part by part."""
_HASH_KEY = "sha256"
_FACTS = frozenset({"fold", "seconds", "peak_memory_mb", "calibration", "fusion"})
"""What a report asks of how a fold went."""


@dataclass(frozen=True, slots=True)
class FoldQuestion:
    """Everything that decides what the folds of a walk-forward predict.

    Parameters
    ----------
    spec : PredictorSpec
        The question that the predictions answer.
    data_hash : str
        Of the panel.
    parts : dict of str
        Name and hash of each part: those of the specification, of the data, of the code.
    """

    spec: PredictorSpec
    data_hash: str
    parts: dict[str, str]

    @classmethod
    def of(cls, panel: Panel, config: WalkForwardConfig, options: FitOptions) -> FoldQuestion:
        """Return the question that a walk-forward over a panel answers."""
        spec = predictor_spec(config, panel.instruments(), panel.interval_ns)
        fusions = json.dumps([options.alternatives, sorted(options.subsets.items())])
        parts = {
            **dict(spec.parts),
            "instruments": ",".join(spec.instruments),
            "interval": str(spec.interval_ns),
            "other fusions": hashlib.sha256(fusions.encode()).hexdigest(),
            "data": panel.data_hash,
            # A panel that was changed since it was read may carry its hash along.
            "bars": panel_digest(panel),
            **code_parts(config),
        }
        return cls(spec, panel.data_hash, parts)

    @property
    def key(self) -> str:
        """One hash of all parts, 64 hex digits."""
        return hash_parts(self.parts)


@contextlib.contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Hold a folder of kept folds: two processes would fit the same ones and mix their files.

    The operating system lets go of it when a process ends, however it ends.

    Raises
    ------
    ConfigError
        If another process holds it.
    DataError
        If the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{folder} must be a folder that can be written to: {error}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ConfigError(
                f"--keep must be no folder that another command is using, {folder} is, by "
                f"process {handle.read().strip() or 'unknown'}; wait for its end or keep the "
                f"folds elsewhere"
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield


def _tell_nobody(_: str) -> None:
    """Let a remark pass."""


@dataclass(frozen=True, slots=True)
class FoldStore:
    """A folder with the folds of one walk-forward.

    Parameters
    ----------
    folder : Path
        Holds ``fold-<index>.parquet`` and, beside it, ``fold-<index>.json`` with how it went.
    question : FoldQuestion
        What is asked now.
    tell : callable
        Given a sentence for each kept fold that must be made anew, saying why.
    """

    folder: Path
    question: FoldQuestion
    tell: Callable[[str], None] = _tell_nobody

    def has(self, index: int) -> bool:
        """Return whether a fold is kept that answers the question; tell why not if it is other."""
        return self._kept(index, told=True)

    def holds(self, count: int) -> bool:
        """Return whether all of the first `count` folds are kept; nothing is told."""
        return all(self.holds_fold(index) for index in range(count))

    def holds_fold(self, index: int) -> bool:
        """Return whether a fold is kept that answers the question; nothing is told."""
        return self._kept(index, told=False)

    def save(self, index: int, frame: pd.DataFrame, facts: Mapping[str, Any]) -> None:
        """Keep a fold: its predictions first, then how it went and the hash of the predictions.

        Both together say that it is done; whatever is interrupted between them leaves a hash that
        does not fit.

        Raises
        ------
        DataError
            If a file cannot be written.
        """
        stamped = stamp_predictions(frame, self.question.spec, self.question.data_hash)
        stamped.attrs[SPEC_KEY] |= {"fold": index, KEPT_KEY: self.question.parts}
        beside = self._facts(index)
        partial = beside.with_name(f".{beside.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_predictions(self._table(index), stamped)
            record = {**facts, _HASH_KEY: self._digest(index)}
            with partial.open("w", encoding="utf-8") as file:
                file.write(json.dumps(record, indent=1, sort_keys=True) + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(beside)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise DataError(
                f"fold {index} could not be kept in {self.folder}: {error}; make room or choose "
                "another folder, then go on"
            ) from error

    def load(self, index: int) -> pd.DataFrame:
        """Return a kept fold's predictions.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with self._table(index).open("rb") as file:
                frame: pd.DataFrame = pq.read_table(file).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"kept fold {self._table(index)} must be a complete Parquet file, is not: "
                f"{error}; remove it and go on"
            ) from error
        frame.attrs = {}
        return frame

    def facts(self, index: int) -> dict[str, Any]:
        """Return how a kept fold went: spans, rows, seconds, choices.

        Raises
        ------
        IntegrityError
            If the file is missing or damaged.
        """
        path = self._facts(index)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path} must be a JSON record, is not: {error}") from error
        if not isinstance(found, dict) or not found.keys() >= _FACTS:
            raise IntegrityError(f"{path} must say {', '.join(sorted(_FACTS))}, does not")
        return found

    def hashes(self, count: int) -> list[str]:
        """Return the SHA-256 of each kept fold's predictions."""
        return [self._digest(index) for index in range(count)]

    def _digest(self, index: int) -> str:
        return hashlib.sha256(self._table(index).read_bytes()).hexdigest()

    def _table(self, index: int) -> Path:
        return self.folder / f"fold-{index}.parquet"

    def _facts(self, index: int) -> Path:
        return self.folder / f"fold-{index}.json"

    def _kept(self, index: int, *, told: bool) -> bool:
        path = self._table(index)
        if not path.is_file():
            return False
        reasons = self._differences(path) or self._faults(index)
        if reasons and told:
            self.tell(f"{path.parent.name}, fold {index} must be made anew: {'; '.join(reasons)}")
        return not reasons

    def _faults(self, index: int) -> list[str]:
        """Return why a fold's two files are not what `save` wrote."""
        try:
            facts = self.facts(index)
        except IntegrityError as error:
            return [f"how it went is not known ({error})"]
        digest = self._digest(index)
        if facts.get(_HASH_KEY, digest) != digest:
            return ["its predictions are not those that were written"]
        return []

    def _differences(self, path: Path) -> list[str]:
        """Return why a kept fold does not answer the question; empty if it does."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as file:
                # The whole table, not its metadata alone: a damaged file shows itself here.
                text = (pq.read_table(file).schema.metadata or {})[SPEC_KEY.encode()]
            then = dict(json.loads(text)[KEPT_KEY])
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            return [f"it cannot be read ({error})"]
        now = self.question.parts
        return [
            f"{name} {_change(then.get(name), now.get(name))}"
            for name in sorted(set(then) | set(now))
            if then.get(name) != now.get(name)
        ]


def _change(then: str | None, now: str | None) -> str:
    if then is None:
        return "is new"
    return "is gone" if now is None else "changed"


def fold_facts(fold: Fold, model: FittedModel) -> dict[str, Any]:
    """Return how a fold went, for JSON.

    Returns
    -------
    dict
        Spans (UTC nanoseconds), rows, ``seconds`` by step, ``peak_memory_mb`` of the process so
        far, experts that were cut short, the maps that calibrate each expert, and why the fusion
        was chosen (None with one).
    """
    report = fit_report(model)
    return {
        "fold": fold.index,
        "test_start": fold.test_start,
        "test_end": fold.test_end,
        "n_test": len(fold.test),
        **report,
        "calibration": {name: one["chosen"] for name, one in report["calibration"].items()},
        "peak_memory_mb": _peak_memory_mb(),
    }


def _peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def joined(store: FoldStore, indices: Sequence[int]) -> pd.DataFrame:
    """Return the predictions of kept folds as one stamped frame, in the order of `indices`."""
    import pandas as pd

    frame = pd.concat([store.load(index) for index in indices], ignore_index=True)
    return stamp_predictions(frame, store.question.spec, store.question.data_hash)

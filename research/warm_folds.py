"""Experts that begin from those of the fold before: which folds are run, and what is handed on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from catalog.errors import DataError, IntegrityError
from research.fit_job import Learned, starts_warm
from research.models.registry import EXPERT_KINDS

if TYPE_CHECKING:
    from research.experts import FittedExpert
    from research.fitted import FittedModel
    from research.fold_store import FoldStore
    from research.settings import WalkForwardConfig
    from research.splits import Fold

_LEARNED = "learned.json"


@dataclass(frozen=True, slots=True)
class WarmFolds:
    """What the folds of a walk-forward with warm starts hand on to one another.

    Where folds are kept, the last one's experts are kept beside it.

    Parameters
    ----------
    names : tuple of str
        Experts that start warm.
    keep : FoldStore, optional
        Of the folds.
    experts : dict of dict of Learned
        By fold and expert.
    """

    names: tuple[str, ...]
    keep: FoldStore | None
    experts: dict[int, dict[str, Learned]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: WalkForwardConfig, keep: FoldStore | None) -> WarmFolds | None:
        """Return what folds hand on; None if no expert starts warm."""
        chosen = config.experts.chosen().items()
        names = tuple(name for name, settings in chosen if starts_warm(settings))
        return cls(names, keep) if names else None

    def ahead(self, folds: list[Fold], names: tuple[str, ...]) -> list[Fold]:
        """Return the folds that must be run, ascending.

        From the first that is not kept, if what the one before has to hand on is kept; else all.

        Parameters
        ----------
        folds : list of Fold
            All, ascending.
        names : tuple of str
            Features.
        """
        keep = self.keep
        if keep is None:
            return folds
        missing = [fold.index for fold in folds if not keep.has(fold.index)]
        first = missing[0] if missing else len(folds)
        if missing and first and not self._load(keep, first - 1, names):
            first = 0
        return folds[first:]

    def before(self, index: int) -> dict[str, Learned] | None:
        """Return what a fold begins from; None for the first."""
        return self.experts[index - 1] if index else None

    def learned(self, index: int, model: FittedModel) -> None:
        """Take what a fold has to hand on.

        Raises
        ------
        DataError
            If it cannot be written where folds are kept.
        """
        until = model.reports.learned_until
        self.experts[index] = {
            member.name: Learned(member.expert, until[member.name])
            for member in model.members
            if member.name in self.names
        }
        if self.keep is not None:
            self._save(self.keep, index)

    def forget(self, index: int) -> None:
        """Throw away what the fold before handed on, once this one is kept."""
        self.experts.pop(index - 1, None)
        if self.keep is not None:
            shutil.rmtree(self._folder(self.keep, index - 1), ignore_errors=True)

    def _save(self, keep: FoldStore, index: int) -> None:
        folder = self._folder(keep, index)
        try:
            shutil.rmtree(folder, ignore_errors=True)
            for name, learned in self.experts[index].items():
                (folder / name).mkdir(parents=True)
                learned.expert.save(folder / name)
            folder.mkdir(parents=True, exist_ok=True)
            until = {name: learned.until for name, learned in self.experts[index].items()}
            record = {"key": keep.question.key, "until": until}
            (folder / _LEARNED).write_text(json.dumps(record), encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"experts of fold {index} could not be kept in {folder}: {error}; make room or "
                "choose another folder, then go on"
            ) from error

    def _load(self, keep: FoldStore, index: int, names: tuple[str, ...]) -> bool:
        """Read what a kept fold hands on; tell and return False if it is not there, or damaged."""
        folder = self._folder(keep, index)
        try:
            record = json.loads((folder / _LEARNED).read_text(encoding="utf-8"))
            if record["key"] != keep.question.key:
                raise ValueError("they are another question's")
            self.experts[index] = {
                name: Learned(_load_fitted(name, folder / name, names), int(until))
                for name, until in record["until"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, DataError, IntegrityError) as error:
            keep.tell(
                f"all folds must be made anew: experts of fold {index}, which the next one begins "
                f"from, cannot be read ({error})"
            )
            return False
        return True

    @staticmethod
    def _folder(keep: FoldStore, index: int) -> Path:
        return keep.folder / f"fold-{index}.experts"


def _load_fitted(name: str, folder: Path, names: tuple[str, ...]) -> FittedExpert:
    load = import_module(EXPERT_KINDS[name].fit_module).load_fitted
    return cast("FittedExpert", load(folder, name, names))

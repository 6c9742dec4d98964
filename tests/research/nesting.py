"""Everything that a fit has chosen, and tables whose other labels know nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from research.bundle import MANIFEST, REPORTS, save_bundle
from research.fitted import FittedModel
from research.training_table import TrainingTable


def chosen(model: FittedModel, folder: Path) -> dict[str, str]:
    """Return the hash of every part of a model and of what its fit weighed up, by name.

    Experts, their calibrations, fusion, guidance with the entry threshold, references; and the
    held-out loss of every alternative to them.
    """
    save_bundle(folder, model)
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, REPORTS)
    }
    report: dict[str, Any] = json.loads((folder / REPORTS).read_text())
    del report["seconds"]
    return {**found, "weighed up": json.dumps(report, sort_keys=True)}


def with_labels_shuffled(table: TrainingTable, rows: np.ndarray, seed: int = 0) -> TrainingTable:
    """Return a table in which the outcomes of some rows belong to others of them."""
    random = np.random.default_rng(seed)
    labels = table.labels
    columns = {}
    for name in ("value", "forward_return", "barrier_return"):
        column = getattr(labels, name)
        if column is not None:
            column = column.copy()
            column[rows] = random.permutation(column[rows])
            columns[name] = column
    return replace(table, labels=replace(labels, **columns))


def with_features_made_up(table: TrainingTable, rows: np.ndarray, seed: int = 0) -> TrainingTable:
    """Return a table in which some rows say nothing true."""
    values = table.matrix.values.copy()
    values[rows] = np.random.default_rng(seed).normal(size=(len(rows), values.shape[1]))
    signs = table.last_sign.copy()
    signs[rows] = 1.0
    return replace(table, matrix=replace(table.matrix, values=values), last_sign=signs)

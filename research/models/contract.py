"""What experts have in common: checks of what they are given, and files of their own.

A model that is given rows of another shape or another order of columns would answer nonsense
without noticing; every expert asks here first.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError, IntegrityError
from research.experts import ExpertOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from research.features import FeatureMatrix


class ExpertRecord(BaseModel):
    """The base of what an expert keeps as JSON: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StreamInput:
    """Checks what a stream is given, call by call.

    Parameters
    ----------
    n_instruments : int
        Codes are below this.
    n_features : int
        Columns of a row.
    """

    def __init__(self, n_instruments: int, n_features: int) -> None:
        if n_instruments < 1:
            raise DataError(f"n_instruments must be at least 1, was {n_instruments}")
        self.n_instruments = n_instruments
        self.n_features = n_features
        self._slot: int | None = None

    def check(self, slot: int, codes: Int64Array, values: Float64Array) -> None:
        """Refuse what is not one row for each of some instruments, later than the last.

        Raises
        ------
        DataError
            Naming what was wrong. Nothing was taken in.
        """
        wanted = (len(codes), self.n_features)
        if codes.ndim != 1 or values.shape != wanted:
            raise DataError(
                f"values must have the shape (n_codes, n_features) = {wanted}, "
                f"had {values.shape} for codes of the shape {codes.shape}"
            )
        if self._slot is not None and slot <= self._slot:
            raise DataError(f"slot must be later than the last one ({self._slot}), was {slot}")
        if len(codes) and (
            codes[0] < 0 or codes[-1] >= self.n_instruments or np.any(np.diff(codes) <= 0)
        ):
            raise DataError(
                f"codes must ascend within 0 … {self.n_instruments - 1}, were {codes.tolist()}"
            )
        self._slot = slot


class RowStream:
    """The stream of an expert that answers each row by itself: it has no state.

    Parameters
    ----------
    n_instruments, n_features : int
        See `StreamInput`.
    answer : callable
        (k, n_features) float64 to k answers.
    """

    def __init__(
        self, n_instruments: int, n_features: int, answer: Callable[[Float64Array], ExpertOutput]
    ) -> None:
        self._input = StreamInput(n_instruments, n_features)
        self._answer = answer

    def update(self, slot: int, codes: Int64Array, values: Float64Array) -> ExpertOutput:
        """Answer the rows of one time; see `research.experts.ExpertStream`."""
        self._input.check(slot, codes, values)
        return self._answer(values)


def spread(found: ExpertOutput, places: Int64Array, count: int) -> ExpertOutput:
    """Put answers at some of `count` places; there is none at the others.

    Parameters
    ----------
    found : ExpertOutput
        k answers.
    places : (k,) int64
        Where each belongs.
    count : int
        Places there are.
    """
    columns = []
    for field in fields(ExpertOutput):
        column = np.full(count, np.nan)
        column[places] = getattr(found, field.name)
        columns.append(column)
    return ExpertOutput(*columns)


def take(found: ExpertOutput, places: Int64Array) -> ExpertOutput:
    """Return the answers at some places."""
    return ExpertOutput(*(getattr(found, field.name)[places] for field in fields(ExpertOutput)))


def check_matrix(expert: str, names: Sequence[str], matrix: FeatureMatrix) -> None:
    """Refuse a matrix of other columns than an expert was fitted on.

    Raises
    ------
    DataError
        Naming the first column that differs, or how many there are.
    """
    if tuple(matrix.names) == tuple(names):
        return
    if len(matrix.names) != len(names):
        raise DataError(
            f"features of {expert} must be the {len(names)} columns that it was fitted on, "
            f"were {len(matrix.names)}; compute them with the same settings"
        )
    place = next(at for at, name in enumerate(names) if matrix.names[at] != name)
    raise DataError(
        f"feature {place} of {expert} must be {names[place]!r} as when it was fitted, "
        f"was {matrix.names[place]!r}; compute the features with the same settings"
    )


def write_text(path: Path, text: str) -> None:
    """Write one of an expert's files, byte for byte the same on every system."""
    path.write_bytes(text.encode())


def read_text(path: Path) -> str:
    """Return one of an expert's files.

    Raises
    ------
    IntegrityError
        If it is missing or no text.
    """
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{path.name} of {path.parent} must be a readable text file, was not: {error}; "
            "use another copy of the bundle"
        ) from error


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON."""
    write_text(path, json.dumps(record.model_dump(mode="json"), indent=2, sort_keys=True) + "\n")


def read_record[Record: BaseModel](path: Path, kind: type[Record]) -> Record:
    """Return a record that `write_record` wrote.

    Raises
    ------
    IntegrityError
        If the file is missing or says something else.
    """
    text = read_text(path)
    try:
        content: Any = json.loads(text)
        return kind.model_validate(content)
    except (ValueError, ValidationError) as error:
        raise IntegrityError(
            f"{path.name} of {path.parent} must hold a {kind.__name__}, did not: {error}; "
            "use another copy of the bundle"
        ) from error


def check_names(expert: str, saved: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a saved expert whose columns are not those of its bundle.

    Raises
    ------
    IntegrityError
        Giving both.
    """
    if tuple(saved) != tuple(wanted):
        raise IntegrityError(
            f"{expert}: the model's features must be the manifest's {tuple(wanted)}, "
            f"were {tuple(saved)}"
        )

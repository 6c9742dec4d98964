"""Answer many rows at once with a sequence model, whatever runs its network; no torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Int64Array
from catalog.errors import DataError
from research.experts import ExpertOutput
from research.models.contract import check_matrix
from research.models.deep.mixture import combine
from research.models.deep.scaling import Float32Array
from research.models.deep.sequences import Pieces, Tokens, answer_pieces
from research.models.deep.spec import SequenceSpec

if TYPE_CHECKING:
    from research.features import FeatureMatrix

type Network = Callable[[Float32Array, Int64Array], NDArray[np.floating[Any]]]
"""Inputs (n_sequences, n_steps, n_inputs) and codes (n_sequences,) in; outputs (n_samples,
n_sequences, n_steps, n_outputs) out, every sequence from an empty state."""

_ANSWERS = 1008
"""Answers in a piece: many beside the history that is read for them."""
_TOKENS_AT_ONCE = 16_384
"""Tokens times members that a network is given at a time: as much as fits a core's cache."""


def answer_rows(
    spec: SequenceSpec, matrix: FeatureMatrix, rows: Int64Array, network: Network
) -> ExpertOutput:
    """Answer some rows of a matrix, looking at earlier rows of the same instrument.

    Parameters
    ----------
    spec : SequenceSpec
        Of the model.
    matrix : FeatureMatrix
        All rows there are.
    rows : (n_rows,) int64
        Those to answer, in any order.
    network : Network
        Runs all members over some sequences.

    Returns
    -------
    ExpertOutput
        Row by row as asked; NaN where the row is not valid or has not history enough.

    Raises
    ------
    DataError
        If the matrix has other features or more instruments than the model was fitted with.
    """
    check_matrix(spec.kind, spec.names, matrix)
    if len(matrix.instruments) > spec.n_instruments:
        raise DataError(
            f"instruments of {spec.kind} must be at most the {spec.n_instruments} that it was "
            f"fitted on, were {len(matrix.instruments)}"
        )
    tokens = Tokens.of(matrix.ts_init, matrix.instrument, matrix.valid, spec.interval_ns)
    asked = np.zeros(len(matrix.ts_init), dtype=np.bool_)
    asked[rows] = True
    pieces = answer_pieces(tokens, asked[tokens.row], spec.memory, _ANSWERS)
    table = np.full((4, len(matrix.ts_init)), np.nan)
    for which in _portions(pieces, spec.n_samples):
        numbers, answers = pieces.take(which).tokens()
        found_rows = tokens.row[numbers]
        inputs = spec.scaler.of_rows(matrix.values, found_rows.ravel())
        shape = (*numbers.shape, spec.scaler.n_inputs)
        outputs = network(inputs.reshape(shape), tokens.code[numbers[:, 0]])
        found = combine(outputs[:, answers], spec.turned)
        table[:, found_rows[answers]] = found.prob_up, found.mu, found.sigma, found.epistemic
    table[:, ~asked] = np.nan
    return ExpertOutput(*table[:, rows])


def _portions(pieces: Pieces, n_samples: int) -> list[Int64Array]:
    """Divide pieces, by length, into what is run at a time."""
    order = np.argsort(pieces.length, kind="stable")
    longest = int(pieces.length.max(initial=1))
    count = max(1, _TOKENS_AT_ONCE // (longest * n_samples))
    return [order[at : at + count] for at in range(0, len(order), count)]

"""What a Temporal Fusion Transformer looked at, row by row, for pictures (torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from catalog.arrays import Int64Array
from catalog.errors import ConfigError
from research.models.contract import check_matrix
from research.models.deep.blocks import open_masks
from research.models.deep.fit import DeepExpert
from research.models.deep.loop import torch_threads
from research.models.deep.scaling import Float32Array
from research.models.deep.sequences import Tokens, answer_pieces
from research.models.deep.tft import Explanation, TemporalFusionTransformer

if TYPE_CHECKING:
    from research.features import FeatureMatrix

_PIECES_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class LookedAt:
    """What the mean network looked at, row by row as asked; NaN where it had no answer.

    Parameters
    ----------
    past_names : tuple of str
        Variables of each time, (n_past,): features; a sine and its cosine are one.
    known_names : tuple of str
        Variables of the time predicted, (n_known,).
    past_weights : (n_rows, n_past) float32
        Weight of each variable at the row's time; they sum to 1.
    known_weights : (n_rows, n_known) float32
        Weight of each variable of the time that the row predicts; they sum to 1.
    attention : (n_rows, n_lags) float32
        Weight of the token so many before the row's own, from 0; they sum to 1, and are NaN
        beyond the beginning of the state that answers.
    """

    past_names: tuple[str, ...]
    known_names: tuple[str, ...]
    past_weights: Float32Array
    known_weights: Float32Array
    attention: Float32Array


def explain_rows(expert: DeepExpert, matrix: FeatureMatrix, rows: Int64Array) -> LookedAt:
    """Say what an expert looks at when it answers some rows of a matrix.

    Each row's says nothing of what came after it: it is known when the row is.

    Parameters
    ----------
    expert : DeepExpert
        A Temporal Fusion Transformer, fitted here or loaded with its torch weights.
    matrix : FeatureMatrix
        All rows there are.
    rows : (n_rows,) int64
        Those to explain, in any order.

    Raises
    ------
    ConfigError
        If the expert is none that can be explained.
    DataError
        If the matrix has other features or more instruments than the model was fitted with.
    """
    model, spec = expert.model, expert.spec
    if not isinstance(model, TemporalFusionTransformer):
        raise ConfigError(f"an expert to explain must be a tft, was {expert.name}")
    check_matrix(spec.kind, spec.names, matrix)
    tokens = Tokens.of(matrix.ts_init, matrix.instrument, matrix.valid, spec.interval_ns)
    asked = np.zeros(len(matrix.ts_init), dtype=np.bool_)
    asked[rows] = True
    pieces = answer_pieces(tokens, asked[tokens.row], spec.memory, model.steps)
    # Only what is asked for is kept: a row of attention has as many numbers as a life has tokens.
    widths = len(model.past_names), len(model.known_names), model.steps
    distinct, place = np.unique(rows, return_inverse=True)
    tables = [np.full((len(distinct), width), np.nan, dtype=np.float32) for width in widths]
    model.eval()
    with torch_threads(expert.threads), torch.inference_mode():
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            group = pieces.take(np.arange(first, min(first + _PIECES_AT_ONCE, len(pieces))))
            numbers, answers = group.tokens()
            found_rows = tokens.row[numbers]
            inputs = spec.scaler.of_rows(matrix.values, found_rows.ravel())
            found = model.explain(
                torch.from_numpy(inputs.reshape(*numbers.shape, -1)),
                torch.from_numpy(tokens.code[numbers[:, 0]]),
                open_masks(model.mask_sizes, len(group)),
            )
            kept = answers & asked[found_rows]
            into = np.searchsorted(distinct, found_rows[kept])
            for table, part in zip(tables, _parts(found, model.steps), strict=True):
                table[into] = part[kept]
    past, known, attention = (table[place] for table in tables)
    return LookedAt(model.past_names, model.known_names, past, known, attention)


def _parts(found: Explanation, n_lags: int) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return both weights, and attention by lag, (n_sequences, n_steps, n_lags)."""
    weights: Float32Array = found.attention.numpy()
    n_steps = weights.shape[1]
    asking, lag = np.arange(n_steps)[:, None], np.arange(n_lags)[None]
    by_lag = weights[:, asking, np.maximum(asking - lag, 0)]
    by_lag = np.where(lag <= asking, by_lag, np.float32(np.nan))
    return found.past_weights.numpy(), found.known_weights.numpy(), by_lag

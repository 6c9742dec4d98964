"""Scores of many rows by boosted trees, compiled by `research.kernel_cache`.

The method is QuickScorer (Lucchese et al., 2015): no tree is walked. Every split that a row fails
strikes out the leaves it can no longer reach, and the leftmost leaf left over is the row's own.
A split is then one comparison for a block of rows side by side, with no branch to mispredict.
Deviation: all splits are tried instead of those up to a feature's value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

BLOCK_ROWS = 128
"""Rows at a time: their features, leaves and scores stay in the processor's first cache."""
LEAVES = 64
"""As many leaves as a mask has bits."""
FIND_BIT = 0x03F79D71B4CB0A89
"""De Bruijn sequence: times a single bit, its top six bits are different for each of the 64."""


def gather(values: Any, rows: Any, first: int, block: Any) -> int:
    """Copy the features of the next rows, a column to a row of the block; return how many."""
    count = min(BLOCK_ROWS, len(rows) - first)
    for place in range(count):
        for column in range(values.shape[1]):
            block[column, place] = values[rows[first + place], column]
    return count


def strike(seen: Any, limit: float, nan_is_left: bool, mask: Any, leaves: Any) -> None:
    """Strike out, where a row fails a split, the leaves that it can no longer reach."""
    every = np.uint64(0xFFFFFFFFFFFFFFFF)
    if nan_is_left:
        for place in range(BLOCK_ROWS):
            leaves[place] &= mask if seen[place] > limit else every
    else:
        for place in range(BLOCK_ROWS):
            leaves[place] &= every if seen[place] <= limit else mask


def score_rows(
    values: Any, rows: Any, splits: Any, kept: Any, leaf_values: Any, probability: Any
) -> None:
    """Add up the trees' answers for some rows, and make probabilities of the sums.

    Parameters
    ----------
    values : (n_table, n_features) float64
        Feature values, NaN where undefined.
    rows : (n_rows,) int64
        Which of them to score.
    splits : (feature, threshold, nan_is_left), (n_trees, n_splits) int64, float64, bool
        A row passes a split, and goes left, where its value is at most the threshold. Unused
        places have a feature of -1 and come last.
    kept : (n_trees, n_splits) uint64
        The leaves that a row which fails a split can still reach, one bit each, leftmost lowest.
    leaf_values : (n_trees, LEAVES) float64
        Answers of the leaves, at the place that `FIND_BIT` gives each.
    probability : (n_rows,) float64
        Filled in: the logistic function of the sums over the trees in their order.
    """
    feature, threshold, nan_is_left = splits
    block = np.zeros((values.shape[1], BLOCK_ROWS))
    leaves = np.empty(BLOCK_ROWS, dtype=np.uint64)
    sums = np.empty(BLOCK_ROWS)
    for first in range(0, len(rows), BLOCK_ROWS):
        count = gather(values, rows, first, block)
        sums[:] = 0.0
        for tree in range(feature.shape[0]):
            leaves[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
            for split in range(feature.shape[1]):
                column = feature[tree, split]
                if column < 0:
                    break
                limit, nan_left = threshold[tree, split], nan_is_left[tree, split]
                strike(block[column], limit, nan_left, kept[tree, split], leaves)
            for place in range(count):
                lowest = leaves[place] & (~leaves[place] + np.uint64(1))
                sums[place] += leaf_values[tree, (lowest * np.uint64(FIND_BIT)) >> np.uint64(58)]
        for place in range(count):
            probability[first + place] = 1.0 / (1.0 + math.exp(-sums[place]))


HELPERS = (gather, strike)
"""What the entry point calls: compiled into it."""
ENTRY_POINTS = (score_rows,)
"""What is called from Python: compiled by `research.kernel_cache`."""

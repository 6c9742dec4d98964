"""A model's trees laid out for `research.models.tree_kernels`: many rows in a tenth of the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from research.kernel_cache import compile_entry_points
from research.models import tree_kernels
from research.models.tree_kernels import FIND_BIT, LEAVES

_BITS = (1 << LEAVES) - 1


@dataclass(frozen=True, slots=True, eq=False)
class PackedTrees:
    """The splits and leaves of a binary model's trees; see `tree_kernels.score_rows`.

    Parameters
    ----------
    feature, threshold, nan_is_left : (n_trees, n_splits)
        int64, float64 and bool: the splits of each tree.
    kept : (n_trees, n_splits) uint64
        Leaves that a row which fails a split can still reach.
    leaf_values : (n_trees, LEAVES) float64
        Answers of the leaves.
    """

    feature: Int64Array
    threshold: Float64Array
    nan_is_left: NDArray[np.bool_]
    kept: NDArray[np.uint64]
    leaf_values: Float64Array

    @classmethod
    def of_model(cls, model: dict[str, Any]) -> Self | None:
        """Lay out what `lightgbm.Booster.dump_model` gives.

        None where it has a tree of more leaves than a mask has bits, or splits of another kind
        than ``<=`` on a number: such a model must be asked itself.
        """
        trees = [tree["tree_structure"] for tree in model["tree_info"]]
        if any(tree["num_leaves"] > LEAVES for tree in model["tree_info"]):
            return None
        shape = (len(trees), LEAVES - 1)
        packed = cls(
            feature=np.full(shape, -1, dtype=np.int64),
            threshold=np.zeros(shape),
            nan_is_left=np.zeros(shape, dtype=np.bool_),
            kept=np.zeros(shape, dtype=np.uint64),
            leaf_values=np.zeros((len(trees), LEAVES)),
        )
        understood = [packed._lay_out(number, root) for number, root in enumerate(trees)]
        return packed if all(understood) else None

    def predict(self, values: Float64Array, rows: Int64Array) -> Float64Array:
        """Return the raw probability of a rise for some rows of a table, (n_rows,).

        Bit for bit what the model itself answers for each of them.
        """
        probability = np.empty(len(rows))
        splits = (self.feature, self.threshold, self.nan_is_left)
        _compiled()(values, rows, splits, self.kept, self.leaf_values, probability)
        return probability

    def _lay_out(self, tree: int, root: dict[str, Any]) -> bool:
        """Fill in one tree; return whether all of its splits are of the kind that is understood."""
        splits: list[tuple[dict[str, Any], int]] = []
        leaves: list[float] = []

        def visit(node: dict[str, Any]) -> int:
            """Return the leaves below a node as bits, numbered from left to right."""
            if "leaf_value" in node:
                leaves.append(float(node["leaf_value"]))
                return 1 << (len(leaves) - 1)
            left = visit(node["left_child"])
            splits.append((node, _BITS & ~left))
            return left | visit(node["right_child"])

        visit(root)
        for place, (node, kept) in enumerate(splits):
            if node["decision_type"] != "<=" or node["missing_type"] not in ("None", "NaN"):
                return False
            limit = float(node["threshold"])
            self.feature[tree, place] = node["split_feature"]
            self.threshold[tree, place] = limit
            # A split that has never seen an undefined value takes it for zero.
            to_left = node["default_left"] if node["missing_type"] == "NaN" else limit >= 0.0
            self.nan_is_left[tree, place] = to_left
            self.kept[tree, place] = kept
        for number, value in enumerate(leaves):
            self.leaf_values[tree, (((1 << number) * FIND_BIT) & _BITS) >> 58] = value
        return True


@cache
def _compiled() -> Callable[..., None]:
    """Return the compiled kernel, made once per process."""
    kernel: Callable[..., None] = compile_entry_points(tree_kernels)["score_rows"]
    return kernel

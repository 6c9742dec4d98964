"""From a fitted network to the ONNX file that serves it (torch).

Only `SequenceModel.step` is exported, as `read` for rows and `advance` for lanes, both free in
number; see `research.models.deep.session`.
"""

from __future__ import annotations

import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import (  # type: ignore[import-untyped]
    Fail,
    InvalidArgument,
    RuntimeException,
)
from torch import Tensor, nn

from catalog.errors import DataError
from research.models.deep.blocks import SequenceModel, draw_masks
from research.models.deep.session import (
    CODE,
    COUNT,
    INPUTS,
    LANE,
    OUTPUT,
    fitting,
    mask_name,
    new_state_name,
    renewed,
    start_session,
    state_name,
)

OPSET = 18
"""Of ONNX: understood by every onnxruntime since 1.14."""
TOLERANCE = 1e-5
"""Largest difference between torch and onnxruntime that is let through, by the larger of 1 and
the answer."""
_ONE_AT_A_TIME = threading.Lock()
_STEPS, _SEQUENCES = 4, 5  # of the check
_EXAMPLES, _ROWS = 3, 2  # in the example that is traced; any numbers above one would do


class _Step(nn.Module):
    """`step` with rows apart from lanes, and the masks one by one, as ONNX names its inputs."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, code: Tensor, count: Tensor, lane: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        masks = len(self.model.mask_sizes)
        seen = tuple(part[lane] for part in self.model.read(x, code, count))
        return self.model.advance(seen, list(rest[:masks]), *rest[masks:])


def export_step(model: SequenceModel, path: Path) -> None:
    """Write the ONNX file of a model's step, after checking that it answers as the model does.

    Parameters
    ----------
    model : SequenceModel
        Fitted; on the CPU.
    path : Path
        File to write; all weights are inside. The same weights give the same bytes.

    Raises
    ------
    DataError
        If an empty state is not all zeros (a stream empties it without asking the model), or
        onnxruntime answers otherwise than torch.
    """
    state = model.empty_parts(_EXAMPLES)
    if any(bool(part.any()) for part in state):
        raise DataError(
            "the empty state of a sequence model must be all zeros, was not; a stream could not "
            "empty it by itself"
        )
    training = model.training
    model.eval()
    try:
        network = _exported(model, state)
        _check(model, network)
    finally:
        model.train(training)
    path.write_bytes(network)


def _exported(model: SequenceModel, state: tuple[Tensor, ...]) -> bytes:
    """Return the checked ONNX file of a model's step, without any trace of this machine.

    torch's tracing exporter is deprecated in favour of one that takes fifty times as long (20 s
    instead of 0.4 for a temporal fusion transformer); what it makes is held against torch here
    (`_check`), for another number of sequences than it was traced with.
    """
    masks = [torch.ones((_EXAMPLES, size)) for size in model.mask_sizes]
    x = torch.zeros((_ROWS, len(model.inputs.names)))
    numbers = [torch.zeros(count, dtype=torch.int64) for count in (_ROWS, _ROWS, _EXAMPLES)]
    by_row = [INPUTS, CODE, COUNT]
    by_lane = [LANE, *(mask_name(place) for place in range(len(masks)))]
    by_lane += [state_name(place) for place in range(len(state))]
    given = [OUTPUT, *(new_state_name(place) for place in range(len(state)))]
    free = {name: {0: "rows"} for name in by_row} | {
        name: {0: "lanes"} for name in (*by_lane, *given)
    }
    # The exporter and the filters of warnings belong to the whole process.
    with (
        _ONE_AT_A_TIME,
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory() as folder,
    ):
        path = Path(folder) / "step.onnx"
        # Deprecation, shapes taken for constants, folding left undone: `_check` sees what matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Step(model).eval(),
            (x, *numbers, *masks, *state),
            path,
            input_names=by_row + by_lane,
            output_names=given,
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )
        proto = onnx.load(path)
    _forget_origin(proto)
    onnx.checker.check_model(proto, full_check=True)
    found: bytes = proto.SerializeToString(deterministic=True)
    return found


def _forget_origin(proto: onnx.ModelProto) -> None:
    """Remove what the exporter notes of the source: it holds paths of this machine."""
    graph = proto.graph
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    graph.doc_string = proto.doc_string = ""


def _check(model: SequenceModel, network: bytes) -> None:
    """Refuse a network that answers otherwise than the model on made-up tokens."""
    session = start_session(network)
    generator = torch.Generator().manual_seed(0)
    masks = draw_masks(model.mask_sizes, _SEQUENCES, 0.2, generator)
    code, lane = torch.arange(_ROWS) % model.inputs.n_instruments, torch.arange(_SEQUENCES) % _ROWS
    state = model.initial_state(_SEQUENCES)
    fed = {mask_name(place): mask.numpy() for place, mask in enumerate(masks)}
    fed |= {CODE: code.numpy(), LANE: lane.numpy()}
    served = [part.numpy() for part in model.empty_parts(_SEQUENCES)]
    for step in range(_STEPS):
        x = torch.randn((_ROWS, len(model.inputs.names)), generator=generator)
        with torch.inference_mode():
            wanted, *new_state = model.step(x[lane], code[lane], masks, *state)
        state = tuple(new_state)
        parts = {state_name(place): part for place, part in enumerate(served)}
        fed |= {INPUTS: x.numpy(), COUNT: np.full(_ROWS, step)}
        try:
            found, *new = session.run(None, fitting(session, {**fed, **parts}))
        except (Fail, InvalidArgument, RuntimeException) as error:
            raise DataError(
                "the exported network must take any number of sequences, did not: "
                f"{error}; ask a tensor for shape[0] in step, not for its len()"
            ) from error
        served = renewed(served, new, model.rings, step)
        exact = wanted.numpy()
        difference = float((np.abs(found - exact) / np.maximum(np.abs(exact), 1.0)).max())
        if not difference <= TOLERANCE:
            raise DataError(
                f"the exported network must answer as torch does to within {TOLERANCE:g}, "
                f"differed by {difference:.3g}; a part of the model does not export"
            )

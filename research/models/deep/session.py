"""The network of a sequence model in onnxruntime: how its parts are called, and how it is run.

It has two batch axes. Rows are what is shown: a time of an instrument, and its mirror image.
Lanes are what is answered, each with masks and a state of its own; each is shown one row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from catalog.errors import IntegrityError

if TYPE_CHECKING:
    import onnxruntime  # type: ignore[import-untyped]

INPUTS, CODE, COUNT = "inputs", "code", "count"
"""What is shown, the instrument, and how many tokens have been before: row by row. A model that
does not ask for the count has a network without it."""
LANE = "lane"
"""Which row is shown to each lane."""
OUTPUT = "output"


def mask_name(place: int) -> str:
    """Return the network's name of a mask."""
    return f"mask_{place}"


def state_name(place: int) -> str:
    """Return the network's name of a part of the state that goes in."""
    return f"state_{place}"


def new_state_name(place: int) -> str:
    """Return the network's name of a part of the state that comes out: of a ring, a row."""
    return f"new_state_{place}"


def write_row(ring: NDArray[Any], row: NDArray[Any], count: int) -> None:
    """Write the row of a token, the one after `count`, into rings (..., places, width)."""
    ring[..., count % ring.shape[-2], :] = row[..., 0, :]


def fitting[Fed](session: onnxruntime.InferenceSession, fed: Mapping[str, Fed]) -> dict[str, Fed]:
    """Return what is fed to a network without the count if it takes none."""
    asks = any(entry.name == COUNT for entry in session.get_inputs())
    return {name: array for name, array in fed.items() if asks or name != COUNT}


def renewed(
    parts: Sequence[NDArray[Any]], new: Sequence[NDArray[Any]], rings: int, count: int
) -> list[NDArray[Any]]:
    """Return the state of lanes after a token, the one after `count`; rings are written to."""
    for ring, row in zip(parts[:rings], new[:rings], strict=True):
        write_row(ring, row, count)
    return [*parts[:rings], *new[rings:]]


def network_file(kind: str) -> str:
    """Return the name of the file that holds the network of a kind of expert."""
    return f"{kind}.onnx"


def start_session(network: bytes) -> onnxruntime.InferenceSession:
    """Return a session on one thread, which answers the same bits every time.

    Raises
    ------
    IntegrityError
        If the bytes are no network.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    # onnxruntime's errors have no base of their own.
    except (
        states.Fail,
        states.InvalidArgument,
        states.InvalidGraph,
        states.InvalidProtobuf,
        states.NoModel,
        states.NotImplemented,
        states.RuntimeException,
        ValueError,
    ) as error:
        raise IntegrityError(
            f"the network of an expert must be readable by onnxruntime, was not: {error}; "
            "use another copy of the bundle"
        ) from error

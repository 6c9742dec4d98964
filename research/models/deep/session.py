"""The network of a sequence model in onnxruntime: how its parts are called, and how it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.errors import IntegrityError

if TYPE_CHECKING:
    import onnxruntime  # type: ignore[import-untyped]

INPUTS, CODE, OUTPUT = "inputs", "code", "output"


def mask_name(place: int) -> str:
    """Return the network's name of a mask."""
    return f"mask_{place}"


def state_name(place: int) -> str:
    """Return the network's name of a part of the state that goes in."""
    return f"state_{place}"


def new_state_name(place: int) -> str:
    """Return the network's name of a part of the state that comes out."""
    return f"new_state_{place}"


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

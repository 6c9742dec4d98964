"""An engine that was killed is to trade again soon: it imports nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("pandas", "matplotlib", "torch", "scipy", "sklearn", "numba", "onnxruntime", "lightgbm")
PROGRAM = f"""
import sys
import live.cli, live.engine, live.engine_exchange
from live import node
with node._left_out("pandas"):
    try:
        import pandas
    except ImportError:
        print("left out")
print(*(one for one in {HEAVY} if one in sys.modules))
import pandas
with node._left_out("pandas"):
    import pandas
"""


def test_it_imports_neither_frames_nor_pictures_nor_networks() -> None:
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "left out\n\n"), found.stderr

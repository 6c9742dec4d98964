"""Maps from a model's score to a probability: one protocol, one file for each kind.

All are served by numpy alone. `research.calibration` chooses between them.
"""

from research.calibrators.beta import BetaCalibration
from research.calibrators.identity import IdentityCalibration
from research.calibrators.isotonic import IsotonicCalibration, join_tails
from research.calibrators.platt import PlattCalibration
from research.calibrators.protocol import MIN_ROWS, Calibration
from research.calibrators.venn_abers import VennAbersCalibration

__all__ = [
    "MIN_ROWS",
    "BetaCalibration",
    "Calibration",
    "IdentityCalibration",
    "IsotonicCalibration",
    "PlattCalibration",
    "VennAbersCalibration",
    "join_tails",
]

"""What the way through a test exchange is told, as JSON between processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One life of an engine on a test exchange in lock-step.

    Parameters
    ----------
    profile, bundle, catalog, state : str
        Files and folders, as `levibot live run` takes them.
    url : str
        Where the exchange is.
    name : str
        Of the engine.
    rows : str
        File that takes what its journal does not hold.
    start, interval_ns : int
        When the audited span begins (UTC nanoseconds), and the length of a bar.
    drop_at : int
        Close whose bars find every socket cut, UTC nanoseconds; 0 for none.
    kill_at : int
        Close whose orders are on their way when the process kills itself, UTC nanoseconds; 0 for
        none.
    settle_s : float
        How long exchange and engine must agree before the market goes on, seconds.
    """

    profile: str
    bundle: str
    catalog: str
    state: str
    url: str
    name: str
    rows: str
    start: int
    interval_ns: int
    drop_at: int = 0
    kill_at: int = 0
    settle_s: float = 0.0

    def to_json(self) -> str:
        """Return the plan as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> NodePlan:
        """Return the plan that `to_json` wrote."""
        return cls(**json.loads(text))

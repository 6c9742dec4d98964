"""The control service on a real socket, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from live.api_door import DoorConfig, Rate
from live.api_server import ServerConfig, listen

TOKEN = "correct-horse-battery-staple"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}
UNLIMITED = Rate(1e9, 1e9)


@contextmanager
def control_service(state: Path, **door: Any) -> Iterator[httpx.Client]:
    """Serve a state folder and give a client that has the token; no rate is too high."""
    config = {"token": TOKEN, "requests": UNLIMITED, "refusals": UNLIMITED, **door}
    found = listen(ServerConfig(state, port=0, door=DoorConfig(**config)))
    thread = threading.Thread(target=found.run)
    thread.start()
    headers = RIGHT if config["token"] else {}
    try:
        with httpx.Client(base_url=found.url, headers=headers, timeout=10.0) as client:
            yield client
    finally:
        found.server.should_exit = True
        thread.join()

"""Connections that say nothing, or not enough, keep nobody from the kill switch."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from live import api_connections
from live.api_connections import ServiceLoop
from live.api_door import DoorConfig
from live.api_server import ServerConfig, listen
from live.kill_switch import kill_file, read_kill
from tests.live.control_service import RIGHT, control_service

NOT_ENOUGH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n"
ENOUGH = NOT_ENOUGH + b"\r\n"


def connect(http: httpx.Client) -> socket.socket:
    url = http.base_url
    return socket.create_connection((url.host, url.port or 0), timeout=20.0)


def is_over(raw: socket.socket, secs: float) -> bool:
    """Whether the other side ends a connection in time; what it sends before that is read."""
    raw.settimeout(secs)
    try:
        while raw.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", NOT_ENOUGH])
def test_idle_connections_do_not_switch_the_kill_switch_off(tmp_path: Path, said: bytes) -> None:
    with control_service(tmp_path) as http, ExitStack() as held:
        idle = [held.enter_context(connect(http)) for _ in range(140)]
        for one in idle:
            one.sendall(said)
        answer = httpx.post(f"{http.base_url}/ml/kill?enabled=true", headers=RIGHT, timeout=20.0)
        assert answer.status_code == 200
        assert kill_file(tmp_path).exists()
        # Those that came first made room.
        assert is_over(idle[0], 20.0)


def test_requests_that_do_not_end_do_not_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_connections, "MOST_CONNECTIONS", 8)
    begun = NOT_ENOUGH + f"authorization: {RIGHT['Authorization']}\r\n".encode()
    with control_service(tmp_path) as http, ExitStack() as held:
        for _ in range(12):
            held.enter_context(connect(http)).sendall(begun + b"content-length: 9\r\n\r\n")
        answer = httpx.post(f"{http.base_url}/ml/kill?enabled=true", headers=RIGHT, timeout=20.0)
        assert answer.status_code == 200
        assert read_kill(tmp_path) is not None


def test_a_request_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_connections, "REQUEST_SECS", 0.3)
    begun = NOT_ENOUGH + f"authorization: {RIGHT['Authorization']}\r\n".encode()
    with control_service(tmp_path, body_secs=60.0) as http, connect(http) as raw:
        raw.sendall(begun + b"content-length: 9\r\n\r\n")
        assert is_over(raw, 20.0)


def test_headers_have_a_deadline_that_no_trickle_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_connections, "HEADER_SECS", 0.6)
    monkeypatch.setattr(api_connections, "KEEP_ALIVE_SECS", 0.0)
    with control_service(tmp_path) as http, connect(http) as raw, connect(http) as second:
        begun, done = time.monotonic(), threading.Event()

        def trickle() -> None:
            while not done.wait(0.05):
                try:
                    raw.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        second.sendall(ENOUGH + b"GET")
        assert is_over(raw, 20.0)
        assert time.monotonic() - begun >= 0.5
        done.set()
        thread.join()
        # The request of this one was answered; what began after it came to nothing.
        assert is_over(second, 20.0)


def test_who_holds_many_makes_room_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_connections, "MOST_CONNECTIONS", 8)
    with control_service(tmp_path) as http, ExitStack() as held:
        single = held.enter_context(
            socket.create_connection(
                (http.base_url.host, http.base_url.port or 0), 20.0, ("127.0.0.2", 0)
            )
        )
        for _ in range(20):
            held.enter_context(connect(http))
        single.sendall(ENOUGH)
        assert single.recv(12) == b"HTTP/1.1 401"


def test_a_tls_handshake_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = listen(ServerConfig(tmp_path, port=0, door=DoorConfig()))
    found.listening.close()
    assert found.server.config.get_loop_factory() is ServiceLoop
    monkeypatch.setattr(api_connections, "HEADER_SECS", 0.3)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def silence() -> bool:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()) as raw:
                return await asyncio.to_thread(is_over, raw, 20.0)

    with asyncio.Runner(loop_factory=ServiceLoop) as runner:
        assert runner.run(silence())

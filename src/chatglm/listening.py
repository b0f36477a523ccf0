"""What every program that listens for HTTP on this machine needs: a socket, and whom a request was meant for."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from chatglm.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def listening(host: str, port: int) -> socket.socket:
    """A socket that has its address already.

    Raises:
        ConfigError: no port, or the address is taken or not this machine's.
    """
    if not 0 <= port < 65536:
        raise ConfigError(f"--port is {port}; it must be from 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named: only then asyncio has connections send small pieces at once, 40 ms earlier (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = error.strerror or error
        raise ConfigError(f"nothing can listen at {host}:{port}: {why}; choose another --port or --host") from None
    return listener


def known_hosts(host: str | None, named: Collection[str] = ()) -> tuple[str, ...]:
    """The names a server answers to; empty: any that its address has.

    Args:
        host: the address it listens at; None: it listens nowhere.
        named: further names, which the operator has given.
    """
    return (*LOOPBACK, *(name.lower() for name in named)) if named or host in LOOPBACK else ()


def host_of(named: str) -> str:
    """The host of a Host header: without its port, and an IPv6 address without its brackets."""
    if named.startswith("["):
        address, _, port = named[1:].partition("]")
        return named if port and not port.startswith(":") else address
    return named.partition(":")[0]


def is_own_origin(origin: str, named: str) -> bool:
    """Whether a page of this server asks, by its Origin and Host headers; so does what is no page."""
    return not origin or origin in (f"http://{named}", f"https://{named}")


def web_server(settings: Any) -> Any:
    """uvicorn's server, but signals are the program's own, which has more to end than requests."""
    import uvicorn

    class WebServer(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return WebServer(settings)

"""Deadlines for TLS handshakes of FLARE's TCP driver, which has none.

As it comes (2.9), whoever connects to the server and says nothing keeps everybody else from
connecting for as long as he likes, because the server shakes hands in the one thread that accepts;
and a hospital or an operator waits for ever for a server that says nothing. Here a handshake has a
deadline on both sides, and the server shakes hands in the thread that serves the connection.
"""

import logging
import ssl
from collections.abc import Callable
from typing import Any

from nvflare.fuel.f3.drivers import tcp_driver
from nvflare.fuel.f3.drivers.tcp_driver import TcpStreamServer

HANDSHAKE_SECONDS = 10.0
# Connections that may wait to be accepted; more hospitals than five come back at once when a server
# does.
_WAITING = 128
_log = logging.getLogger(__name__)


class _Limited(ssl.SSLSocket):
    """A socket that gives up a handshake at its deadline; afterwards it waits as long as before."""

    def do_handshake(self, block: bool = False) -> None:
        before = self.gettimeout()
        self.settimeout(HANDSHAKE_SECONDS)
        try:
            super().do_handshake(block)
        finally:
            self.settimeout(before)


def limit_handshakes() -> None:
    """Give this process's handshakes a deadline.

    As often as one likes, and before the first connection.
    """
    if getattr(tcp_driver.get_ssl_context, "limited", False):
        return
    tcp_driver.get_ssl_context = _with_limit(tcp_driver.get_ssl_context)
    TcpStreamServer.request_queue_size = _WAITING
    TcpStreamServer.get_request = _accept
    TcpStreamServer.finish_request = _shake_hands_and_serve


def _with_limit(make: Callable[..., ssl.SSLContext | None]) -> Callable[..., ssl.SSLContext | None]:
    def made(*arguments: Any, **more: Any) -> ssl.SSLContext | None:
        context = make(*arguments, **more)
        if context is not None:
            context.sslsocket_class = _Limited
        return context

    made.limited = True  # type: ignore[attr-defined]  # set at run time
    return made


def _accept(server: Any) -> tuple[Any, Any]:
    """Accept a connection and leave the handshake to its own thread."""
    if isinstance(server.socket, ssl.SSLSocket):
        server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]  # FLARE
    accepted: tuple[Any, Any] = server.socket.accept()
    return accepted


def _shake_hands_and_serve(server: Any, connection: Any, address: Any) -> None:
    if isinstance(connection, ssl.SSLSocket):
        try:
            connection.do_handshake()
        except OSError as error:  # no certificate, not ours, or nothing was said in time
            _log.warning("refused a connection from %s: %s", address[0], error)
            return
    server.RequestHandlerClass(connection, address, server)

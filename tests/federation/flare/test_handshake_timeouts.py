import socket
import ssl

import pytest

pytest.importorskip("nvflare")
from federation.flare import handshake_timeouts


def test_a_peer_that_says_nothing_is_given_up_at_the_deadline_and_the_socket_waits_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake_timeouts, "HANDSHAKE_SECONDS", 0.2)
    context = handshake_timeouts._with_limit(ssl.create_default_context)()
    assert context is not None
    context.check_hostname = False
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.socket() as plain:
        assert context is not None
        wire = context.wrap_socket(plain)
        with wire, pytest.raises(TimeoutError):
            wire.connect(mute.getsockname())
        assert wire.gettimeout() is None


def test_a_connection_in_the_clear_has_no_handshake_to_limit() -> None:
    assert handshake_timeouts._with_limit(lambda: None)() is None

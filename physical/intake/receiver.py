"""The DICOM network door: C-STORE of CT images into a hospital's inbox, and C-ECHO.

A sender is told "success" only after its image is safe on disk; what the image is worth is judged
later, so that a broken file goes to quarantine and does not block a sender's queue.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physical.datasets.dicom import CT_CLASSES
from physical.intake.files import remove_parts, write_whole
from physical.intake.folder import READY
from physical.intake.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.events import Event

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_SECONDS = 30.0


class Receiver:
    """Writes what allowed senders send into an inbox.

    Args:
        inbox: The watched folder.
        pseudonyms: With the hospital's key: file names are keyed hashes.
        ae_title: Its own application entity title; senders must call it by it.
        allowed: Titles of the senders that may speak to it.
        most_bytes: Size of one image.
        most_senders: Connections at a time.

    Raises:
        ValueError: If nobody is allowed: an empty list would let everybody in.
    """

    def __init__(
        self,
        inbox: Path,
        pseudonyms: Pseudonyms,
        ae_title: str,
        allowed: Sequence[str],
        most_bytes: int = 256 << 20,
        most_senders: int = 8,
    ) -> None:
        if not [title for title in allowed if title.strip()]:
            raise ValueError(
                "receiver: got no allowed sender; allowed: one title and more; name the PACS that "
                "may send"
            )
        self._inbox, self._pseudonyms, self._most_bytes = inbox, pseudonyms, most_bytes
        self._title, self._allowed, self._most_senders = ae_title, list(allowed), most_senders

    @contextmanager
    def serving(self, address: str, port: int) -> Iterator[int]:
        """Serve while the context is open.

        Args:
            address: Interface to listen on, such as "127.0.0.1".
            port: Port; 0 takes a free one.

        Yields:
            The port.
        """
        from pynetdicom import evt

        self._inbox.mkdir(parents=True, exist_ok=True)
        remove_parts(self._inbox)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, without_delay),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, _echo),
        ]
        server = self._entity().start_server((address, port), block=False, evt_handlers=handlers)
        assert server is not None  # it is None only where the call blocks
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def _entity(self) -> "AE":
        from pynetdicom import AE

        # Made at run time.
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # pydicom

        entity = AE(self._title)
        entity.require_called_aet = True
        entity.require_calling_aet = self._allowed
        entity.maximum_associations = self._most_senders
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _SECONDS
        entity.add_supported_context(Verification)
        for each in sorted(CT_CLASSES):
            entity.add_supported_context(each, transfer_syntaxes())
        return entity

    def _store(self, event: "Event") -> int:
        try:
            content = event.encoded_dataset()
        except Exception:
            return CANNOT_UNDERSTAND
        if len(content) > self._most_bytes:
            return OUT_OF_RESOURCES
        try:
            write_whole(
                self._inbox / f"{self._pseudonyms.of_bytes('received', content)}{READY}", content
            )
        except OSError:
            return OUT_OF_RESOURCES
        return SUCCESS


def transfer_syntaxes() -> list[str]:
    """Return the transfer syntaxes that can be read here; uncompressed ones first."""
    from pydicom import uid

    names = (
        *("ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian", "RLELossless"),
        *("JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless", "JPEG2000Lossless", "HTJ2KLossless"),
        *("JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLSNearLossless", "JPEG2000"),
    )
    return [str(getattr(uid, name)) for name in names]


def without_delay(event: "Event") -> None:
    """Send small packets at once.

    Without this each image waits for the other side's delayed acknowledgement (40 ms).
    """
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _echo(_: "Event") -> int:
    return SUCCESS

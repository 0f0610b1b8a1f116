"""DICOM network receiver: accepts CT images (C-STORE) into a hospital's inbox, and C-ECHO.

A sender gets "success" only after its image is safe on disk. The image is checked later by the
folder's intake, so that a broken file goes to quarantine and does not block a sender's queue.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physical.datasets.dicom_file import CT_CLASSES
from physical.intake.files import remove_parts, write_atomically
from physical.intake.folder import READY_ENDING
from physical.intake.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.events import Event

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_SECONDS = 30.0


class Receiver:
    """Writes images from allowed senders into an inbox.

    Args:
        inbox: The watched folder.
        pseudonyms: Pseudonyms with the hospital's key; file names are keyed hashes.
        ae_title: Application entity title by which senders must call the receiver.
        allowed: Titles of the senders that may connect.
        most_bytes: Largest size of one image [bytes].
        most_senders: Largest number of connections at a time.

    Raises:
        ValueError: If no sender is allowed; an empty list would let everybody in.
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
                "receiver: got no allowed sender; allowed: one title and more; "
                "name the PACS that may send"
            )
        self._inbox, self._pseudonyms, self._most_bytes = inbox, pseudonyms, most_bytes
        self._title, self._allowed, self._most_senders = ae_title, list(allowed), most_senders

    @contextmanager
    def serving(self, address: str, port: int) -> Iterator[int]:
        """Run the server while the context is open.

        Args:
            address: Interface to listen on, such as "127.0.0.1".
            port: Port to listen on; 0 takes a free one.

        Yields:
            The port.
        """
        from pynetdicom import evt

        self._inbox.mkdir(parents=True, exist_ok=True)
        remove_parts(self._inbox)
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, send_packets_at_once),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, _echo),
        ]
        server = self._entity().start_server((address, port), block=False, evt_handlers=handlers)
        assert server is not None  # start_server returns None only with block=True
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def _entity(self) -> "AE":
        from pynetdicom import AE
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # dynamic

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
            write_atomically(
                self._inbox / f"{self._pseudonyms.of_bytes('received', content)}{READY_ENDING}",
                content,
            )
        except OSError:
            return OUT_OF_RESOURCES
        return SUCCESS


def transfer_syntaxes() -> list[str]:
    """Return the transfer syntaxes that can be read here, uncompressed ones first."""
    from pydicom import uid

    names = (
        *("ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian", "RLELossless"),
        *("JPEGLossless", "JPEGLosslessSV1", "JPEGLSLossless", "JPEG2000Lossless", "HTJ2KLossless"),
        *("JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLSNearLossless", "JPEG2000"),
    )
    return [str(getattr(uid, name)) for name in names]


def send_packets_at_once(event: "Event") -> None:
    """Disable Nagle's algorithm: it delays each image by the other side's 40 ms acknowledgement."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _echo(_: "Event") -> int:
    return SUCCESS

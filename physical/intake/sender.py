"""Sends DICOM files to a receiver, as a scanner or a PACS does; for demos, tests and trials."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from physical.datasets.dicom_file import CT_CLASSES
from physical.intake.receiver import send_packets_at_once, transfer_syntaxes

if TYPE_CHECKING:
    from pydicom import Dataset

_SECONDS = 30.0


class SendError(OSError):
    """Raised if a receiver is unreachable or refuses; says what, got, allowed, what to do."""


def send(
    files: Iterable["Path | Dataset"], address: str, port: int, calling: str, called: str
) -> list[int]:
    """Send files in one connection.

    Args:
        files: Paths, or data sets with their file meta information.
        address: Address of the receiver.
        port: Port of the receiver.
        calling: Application entity title of the sender.
        called: Application entity title of the receiver.

    Returns:
        DICOM status of each file, 0 for success.

    Raises:
        SendError: If no connection can be opened.
    """
    from pydicom import dcmread
    from pynetdicom import AE, evt

    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = (
        entity.connection_timeout
    ) = _SECONDS
    for each in sorted(CT_CLASSES):
        for syntax in transfer_syntaxes():
            entity.add_requested_context(each, syntax)
    association = entity.associate(
        address, port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, send_packets_at_once)]
    )
    if not association.is_established:
        raise SendError(
            f"receiver {called} at {address}:{port}: no connection for {calling}; "
            "expected an open receiver that allows it; "
            "check address, port and both titles"
        )
    try:
        return [
            int(
                association.send_c_store(dcmread(each) if isinstance(each, Path) else each).get(
                    "Status", 0xFFFF
                )
            )
            for each in files
        ]
    finally:
        association.release()

"""Sends DICOM files to a receiver, as a scanner or a PACS does.

For demos, tests and trying a connection.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from physical.datasets.dicom import CT_CLASSES
from physical.intake.receiver import transfer_syntaxes, without_delay

if TYPE_CHECKING:
    from pydicom import Dataset

_SECONDS = 30.0


class SendError(OSError):
    """A receiver cannot be reached, or refuses.

    The message says what, what came, what is allowed and what to do.
    """


def send(
    files: Iterable["Path | Dataset"], address: str, port: int, calling: str, called: str
) -> list[int]:
    """Send files in one connection.

    Args:
        files: Paths, or data sets with their file meta information.
        address: The receiver's address.
        port: Its port.
        calling: The sender's application entity title.
        called: The receiver's.

    Returns:
        DICOM status of each, 0 for success.

    Raises:
        SendError: If the receiver lets no connection open.
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
        address, port, ae_title=called, evt_handlers=[(evt.EVT_CONN_OPEN, without_delay)]
    )
    if not association.is_established:
        raise SendError(
            f"receiver {called} at {address}:{port}: no connection for {calling}; expected an open "
            "receiver that allows it; "
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

"""Counts of the files processed in one pass over the inbox, without file or patient names."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class IntakeReport:
    """Counts of files and of the images in them.

    Args:
        added: Files whose images are new to the mirror.
        images: Images (slices) in these files.
        repeated: Files processed before with the same content.
        quarantined: Reason -> number of files.
        waiting: Files still being written or not readable; the next pass tries them again.
    """

    added: int = 0
    images: int = 0
    repeated: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0

    @property
    def num_quarantined(self) -> int:
        """Return the number of files that went to quarantine for any reason."""
        return sum(self.quarantined.values())

    def __add__(self, other: "IntakeReport") -> "IntakeReport":
        """Return the report of two passes; ``waiting`` is that of the later one."""
        reasons = sorted({*self.quarantined, *other.quarantined})
        return IntakeReport(
            self.added + other.added,
            self.images + other.images,
            self.repeated + other.repeated,
            {
                reason: self.quarantined.get(reason, 0) + other.quarantined.get(reason, 0)
                for reason in reasons
            },
            other.waiting,
        )

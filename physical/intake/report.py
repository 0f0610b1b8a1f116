"""What became of the files of a look at the inbox: counts that people and logs may see."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class IntakeReport:
    """Counts of files, and of the images that were in them.

    Args:
        added: Files that are now in the mirror and were not before.
        images: Images (slices) of them.
        repeated: Files that had been taken before, with the same content.
        quarantined: Reason -> files.
        waiting: Files that may still be written to, or that could not be opened; the next look sees
            them again.
    """

    added: int = 0
    images: int = 0
    repeated: int = 0
    quarantined: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0

    @property
    def num_quarantined(self) -> int:
        """Return the number of files that went to quarantine, whatever the reason."""
        return sum(self.quarantined.values())

    def __add__(self, other: "IntakeReport") -> "IntakeReport":
        """Return the report of two looks; what waits is what waited last."""
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

"""A hospital's folder with its mirror and intake, and a clock that tests move."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from physical.intake.folder import FolderIntake
from physical.intake.pseudonyms import Pseudonyms
from physical.mirror import Mirror


@dataclass
class Clock:
    """A clock that is moved by hand."""

    now: datetime = field(default_factory=lambda: datetime(2024, 2, 19, 8, 30, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class HospitalFolder:
    """One hospital's folder, its mirror and its intake."""

    folder: Path
    mirror: Mirror
    intake: FolderIntake
    pseudonyms: Pseudonyms
    clock: Clock

    def put(self, name: str, content: bytes) -> Path:
        path = self.intake.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def left(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.intake.inbox))
            for path in self.intake.inbox.rglob("*")
            if path.is_file()
        )

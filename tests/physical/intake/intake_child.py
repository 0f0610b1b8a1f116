"""A process that runs an intake and may be killed. Tests run it and never import it.

``process FOLDER``: one pass; each file operation within the folder writes a point to standard
output. ``crash TEMPLATE SPACE``: copies TEMPLATE once for each file operation of a pass, dies at
that operation, runs another pass, and writes the result as one line of JSON.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from physical.intake.config import IntakeConfig
from physical.intake.folder import FolderIntake
from physical.intake.pseudonyms import read_or_make_key
from physical.mirror import Mirror

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect"}


def intake_of(folder: Path) -> FolderIntake:
    config = IntakeConfig(image_size=16, settle_seconds=0)
    return FolderIntake(
        folder, Mirror(folder / "mirror", 16), read_or_make_key(folder / "key"), config
    )


def at_each_operation(folder: Path, act: Callable[[], object]) -> None:
    inside = str(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in OPERATIONS and any(str(each).startswith(inside) for each in arguments):
            act()

    sys.addaudithook(hook)


def die_at(operation: int, folder: Path) -> int:
    """Run a pass in a child that dies at its n-th file operation; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    rest = [operation]

    def count() -> None:
        rest[0] -= 1
        if rest[0] < 0:
            os._exit(9)

    at_each_operation(folder, count)
    intake_of(folder).process_inbox()
    os._exit(0)


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "process":
        at_each_operation(folder, lambda: os.write(1, b"."))
        intake_of(folder).process_inbox()
        return
    operation, code = 0, 9
    while code == 9:
        place = Path(sys.argv[3]) / f"died-at-{operation}"
        shutil.copytree(folder, place)
        code = die_at(operation, place)
        intake = intake_of(place)
        intake.process_inbox()
        mirror = Mirror.open_existing(place / "mirror")
        found = {
            "code": code,
            "mirror": sorted(mirror.ids()),
            "archive": sorted(path.stem for path in intake.archive.glob("??/*")),
            "quarantine": sorted([note.reason, note.sha256] for note in intake.quarantine.notes()),
            "half": [str(path) for path in place.rglob("*.part")],
            "left": [str(path) for path in intake.inbox.rglob("*")],
            "again": vars(intake.process_inbox()),
        }
        print(json.dumps(found, default=dict), flush=True)  # noqa: T201
        shutil.rmtree(place)
        operation += 1


main()

"""Twin states on disk: one small file for each twin and round in which it changed.

Memory holds the states of the twins that work, a file is read when its twin is asked, and nothing
here grows with the twins that are not. Any mapping serves an engine as well: a dictionary does
where twins are few and nothing is to be resumed. Knows no engine.

Files are numbered by the round that wrote them, so a checkpoint refers to all of them by one
number, and a round that was interrupted leaves files that are newer than the checkpoint and do not
count. What a method keeps on a twin changes only when it trains and may be as large as the model:
it lies in a file of its own, numbered by that round. A damaged file is put aside under another name
until its round is repeated: the one before it must not pass for it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from twin.memory import ExemplarMemory
from twin.privacy.differential_privacy import account_after_restore
from twin.state import TwinState, from_plain, to_plain

_STATE, _KEPT, _DAMAGED = ".safetensors", ".kept.safetensors", ".damaged"
_FLUSHED_AT_ONCE = (
    16  # a disk that is asked for many files at a time makes one journal entry of them
)


class StateFolder(MutableMapping[str, TwinState]):
    """The states of a run's twins.

    Args:
        path: The folder; made when first written to.
        checkpoints: How many of the last checkpoints can be gone back to; what none of them needs
            is deleted.
        until: Newest round whose states are shown; none: all.
    """

    def __init__(self, path: Path, checkpoints: int = 2, until: int | None = None) -> None:
        self.path = path
        self._checkpoints = checkpoints
        self._until = until
        self._fresh: set[str] = set()

    def __getitem__(self, twin_id: str) -> TwinState:
        rounds = [
            number
            for number in self._rounds(twin_id, _STATE)
            if self._until is None or number <= self._until
        ]
        if not rounds:
            raise KeyError(twin_id)
        return _read(self.path / twin_id, max(rounds))

    def __setitem__(self, twin_id: str, state: TwinState) -> None:
        self.put_in_place(self.stage(twin_id, state))

    def stage(self, twin_id: str, state: TwinState) -> "StagedState":
        """Write a twin's state beside the one it has, which stays the twin's state.

        Raises:
            StateError: If it cannot be written; nothing is left of it then.
        """
        folder, number = self.path / twin_id, state.last_round
        number_of_kept = state.model_round
        plain, tensors = to_plain(state)
        kept = {name: value for name, value in tensors.items() if name.startswith("kept/")}
        own = {name: value for name, value in tensors.items() if name not in kept}
        place_of_kept = _place(folder, number_of_kept, _KEPT)
        files = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if kept and (number == number_of_kept or not place_of_kept.exists()):
                files.append((_write_beside(place_of_kept, kept, ""), place_of_kept))
            place, facts = _place(folder, number, _STATE), json.dumps({**plain, "kept": list(kept)})
            files.append((_write_beside(place, own, facts), place))
        except (OSError, SafetensorError) as error:
            for beside, _ in files:
                beside.unlink(missing_ok=True)
            raise self._not_written(twin_id, error) from error
        return StagedState(twin_id, number, tuple(files))

    def put_in_place(self, staged: "StagedState") -> None:
        """Make a staged state the twin's state.

        Raises:
            StateError: If it cannot be.
        """
        try:
            for beside, place in staged.files:
                beside.replace(place)
        except OSError as error:
            raise self._not_written(staged.twin_id, error) from error
        self._delete_what_no_checkpoint_needs(staged.twin_id, staged.round)
        self._fresh.add(staged.twin_id)

    def _not_written(self, twin_id: str, error: Exception) -> "StateError":
        return StateError(
            f"the state of twin {twin_id} could not be written below {self.path}: {error}; the "
            "last checkpoint is whole; make room and go on with --resume"
        )

    def __delitem__(self, twin_id: str) -> None:
        shutil.rmtree(self.path / twin_id)

    def __iter__(self) -> Iterator[str]:
        twin_ids = sorted(each.name for each in self.path.iterdir()) if self.path.exists() else []
        for twin_id in twin_ids:
            if any(
                self._until is None or number <= self._until
                for number in self._rounds(twin_id, _STATE)
            ):
                yield twin_id

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def flush(self) -> None:
        """Make sure that what was written since the last call is on the disk."""
        folders = [self.path / twin_id for twin_id in self._fresh]
        files = [file for folder in folders for file in folder.iterdir()]
        if folders:
            with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as pool:
                list(pool.map(flush, (*files, *folders)))
            flush(self.path)
        self._fresh.clear()

    def go_back(self, until: int) -> None:
        """Forget what was written after a round: it is written again when that is repeated.

        Not forgotten is the privacy that was spent on noise which cannot be drawn again: what left
        has left.
        """
        for folder in self.path.iterdir() if self.path.exists() else ():
            self._charge(folder.name, until)
            for file in folder.iterdir():
                number = _number(file.name)
                if number is None or number > until:
                    file.unlink()

    def set_aside_damaged(self, twin_id: str) -> int | None:
        """Put a twin's newest unreadable files aside, so that the one before is the newest.

        Returns:
            The first round whose state is lost; none where all is well. So it stays until
            ``go_back`` goes behind that round.

        Raises:
            StateError: If a file cannot be read though it may be whole.
        """
        folder = self.path / twin_id
        for number in reversed(self._rounds(twin_id, _STATE)):
            try:
                _read(folder, number)
            except StateError as error:
                if isinstance(error.__cause__, OSError) and not isinstance(
                    error.__cause__, FileNotFoundError
                ):
                    raise
                _place(folder, number, _STATE).replace(_place(folder, number, _DAMAGED))
            else:
                break
        return min(self._rounds(twin_id, _DAMAGED), default=None)

    def _charge(self, twin_id: str, until: int) -> None:
        """Carry the privacy spent since a round into the state that the twin goes back to."""
        newest = self._newest_after(twin_id, until)
        if newest is None or all(each.seeded for each in newest.privacy):
            return
        earlier = [number for number in self._rounds(twin_id, _STATE) if number <= until]
        newborn = TwinState(ExemplarMemory(newest.memory.capacity))
        state = _read(self.path / twin_id, max(earlier)) if earlier else newborn
        self[twin_id] = replace(state, privacy=account_after_restore(state.privacy, newest.privacy))

    def _newest_after(self, twin_id: str, until: int) -> TwinState | None:
        """Return the newest state after a round that can be read."""
        for number in reversed(self._rounds(twin_id, _STATE)):
            if number > until:
                with suppress(StateError):
                    return _read(self.path / twin_id, number)
        return None

    def clear(self) -> None:
        """Forget everything."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def _rounds(self, twin_id: str, kind: str) -> list[int]:
        try:
            names = [file.name for file in (self.path / twin_id).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(
            number
            for name in names
            if _kind(name) == kind and (number := _number(name)) is not None
        )

    def _delete_what_no_checkpoint_needs(self, twin_id: str, number: int) -> None:
        """Leave the files that the last checkpoints need: the newest of each round or before."""
        folder, oldest = self.path / twin_id, number - self._checkpoints
        for kind in (_STATE, _KEPT):
            settled = [each for each in self._rounds(twin_id, kind) if each <= oldest]
            for outdated in settled[:-1]:
                with suppress(FileNotFoundError):
                    _place(folder, outdated, kind).unlink()


@dataclass(frozen=True)
class StagedState:
    """A twin's state that is written and not yet in its place.

    Args:
        twin_id: Whose.
        round: Round that wrote it.
        files: Each file as it was written, and its place.
    """

    twin_id: str
    round: int
    files: tuple[tuple[Path, Path], ...]


class StateError(ValueError):
    """A twin's state that cannot be written or read: what, what to do."""


def flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk as it was written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(folder: Path, number: int, kind: str) -> Path:
    return folder / f"{number:05d}{kind}"


def _kind(name: str) -> str:
    return name[name.index(".") :]


def _number(name: str) -> int | None:
    """Return the round of a file; none of one that was not finished."""
    return None if name.startswith(".") else int(name.partition(".")[0])


def _write_beside(place: Path, tensors: dict[str, Tensor], plain: str) -> Path:
    """Write a file beside its place, under a name that counts for nothing, and return that."""
    beside = place.with_name(f".{place.name}.{uuid4().hex}")
    dense = {name: value.contiguous().clone() for name, value in tensors.items()}
    try:
        save_file(dense, beside, {"state": plain})
    except BaseException as error:
        beside.unlink(missing_ok=True)
        # A full disk, say: the library gives the system's number in words alone.
        number = re.search(r"os error (\d+)", str(error))
        if not isinstance(error, SafetensorError) or number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    return beside


def _read(folder: Path, number: int) -> TwinState:
    place = _place(folder, number, _STATE)
    try:
        with safe_open(place, "pt") as file:
            plain = json.loads(file.metadata()["state"])
            names = file.keys()  # no mapping: it has nothing but keys()
            tensors = {name: file.get_tensor(name) for name in names}
        if plain["kept"]:
            tensors |= load_file(_place(folder, plain["model_round"], _KEPT))
        # What is loaded is the file itself, mapped: a disk that loses part of it would change a
        # twin that is at work. So it is copied.
        return from_plain(plain, {name: value.clone() for name, value in tensors.items()})
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StateError(
            f"{place}, the state of twin {folder.name}, cannot be read: {error}; start the run "
            "again without --resume"
        ) from error

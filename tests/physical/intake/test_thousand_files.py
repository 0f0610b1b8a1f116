import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from physical.datasets.phantom_dicom import ct_dataset, dicom_bytes, make_identity, make_uid
from physical.intake.config import IntakeConfig
from physical.intake.folder import FolderIntake, utc_now
from physical.intake.pseudonyms import read_or_make_key
from physical.intake.quarantine import Quarantine
from physical.intake.report import IntakeReport
from physical.mirror import Mirror

CHILD = Path(__file__).with_name("intake_child.py")
BREAKAGES: dict[str, Callable[[Dataset], object]] = {
    "not_an_image": lambda data: data.__delitem__("PixelData"),
    "not_ct": lambda data: setattr(data, "Modality", "MR"),
    "no_sop_uid": lambda data: data.__delitem__("SOPInstanceUID"),
    "bad_geometry": lambda data: setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
    "bad_pixels": lambda data: setattr(data, "Rows", 65),
    "bad_rescale": lambda data: data.__delitem__("RescaleSlope"),
    "too_large": lambda data: setattr(data, "NumberOfFrames", 100_000),
    "burnt_in_annotation": lambda data: setattr(data, "BurnedInAnnotation", "YES"),
}


@dataclass
class Stream:
    """Files as a scanner sends them, and what must become of them."""

    folder: Path
    images: set[str]  # ids that must be in the mirror
    broken: Counter[tuple[str, str]]  # reason and digest of what must be in quarantine

    def check(self, folder: Path) -> None:
        """Check that each file of the stream is where it belongs, once."""
        mirror = Mirror.open_existing(folder / "mirror")
        pseudonyms = read_or_make_key(folder / "key")
        notes = Quarantine(folder / "quarantine", pseudonyms, utc_now).notes()
        assert len(mirror) == len(self.images)
        assert set(mirror.ids()) == self.images
        assert {path.stem for path in (folder / "archive").glob("??/*.dcm")} == self.images
        assert Counter((note.reason, note.sha256) for note in notes) == self.broken
        assert not [path for path in (folder / "inbox").rglob("*") if path.is_file()]
        assert not list(folder.rglob("*.part"))
        files = list((folder / "quarantine").glob("*/*.file"))
        assert Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files) == Counter(
            digest for _, digest in self.broken
        )


def make_stream(folder: Path, num_good: int, num_each: int) -> Stream:
    """Write good files and ten kinds of broken ones, in an order drawn at random."""
    rng = np.random.default_rng(20240219)
    (folder / "inbox").mkdir(parents=True)
    pseudonyms = read_or_make_key(folder / "key")
    patients = [make_identity(rng) for _ in range(20)]
    broken, images = Counter[tuple[str, str]](), set[str]()
    contents: list[bytes] = []

    def new() -> Dataset:
        hounsfield = rng.integers(-200, 300, (64, 64)).astype(float)
        return ct_dataset(
            hounsfield,
            patients[rng.integers(20)],
            make_uid(rng),
            [None, "LIVER", "SPLEEN"][rng.integers(3)],
        )

    def damaged(reason: str, content: bytes) -> None:
        broken[reason, hashlib.sha256(content).hexdigest()] += 1
        contents.append(content)

    for _ in range(num_good):
        data = new()
        images.add(pseudonyms.of("uid", str(data.SOPInstanceUID)))
        contents.append(dicom_bytes(data))
    for number in range(num_each):
        damaged("not_dicom", f"letter {number} to the doctor".encode())
        whole = dicom_bytes(new())
        damaged("truncated", whole[: len(whole) - 1 - int(rng.integers(8000))])
        for reason, change in BREAKAGES.items():
            data = new()
            file = dicom_bytes(
                data
            )  # gives it its file meta information, which the damage does not touch
            change(data)
            stream = folder / "damaged"
            data.save_as(stream, enforce_file_format=False)
            file = stream.read_bytes()
            damaged(reason, b"\0" * 128 + b"DICM" + file.removeprefix(b"\0" * 128 + b"DICM"))
            stream.unlink()
    order = rng.permutation(len(contents))
    for place, content in zip(order, contents, strict=True):
        (folder / "inbox" / f"IM{place:06d}.dcm").write_bytes(content)
    return Stream(folder, images, broken)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    stream = make_stream(tmp_path_factory.mktemp("stream") / "hospital", num_good=900, num_each=10)
    assert len(list((stream.folder / "inbox").iterdir())) == 1000
    assert len({reason for reason, _ in stream.broken}) == 10
    assert stream.broken.total() == 100
    return stream


def copy_of(stream: Stream, place: Path) -> Path:
    shutil.copytree(stream.folder, place)
    return place


@pytest.mark.slow
def test_of_a_thousand_files_nine_hundred_are_mirrored_and_a_hundred_have_their_reason(
    thousand: Stream, tmp_path: Path
) -> None:
    folder = copy_of(thousand, tmp_path / "hospital")
    config = IntakeConfig(image_size=16, settle_seconds=0)
    intake = FolderIntake(
        folder, Mirror(folder / "mirror", 16), read_or_make_key(folder / "key"), config
    )
    report = intake.process_inbox()
    assert report == IntakeReport(
        900, 900, 0, dict(sorted(Counter(reason for reason, _ in thousand.broken).items())), 0
    )
    assert intake.process_inbox() == IntakeReport()
    thousand.check(folder)


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_and_duplicate_nothing(
    thousand: Stream, tmp_path: Path
) -> None:
    folder = copy_of(thousand, tmp_path / "hospital")
    rng = np.random.default_rng(9)
    killed, seen = 0, []
    for _ in range(10):
        operations = int(
            rng.integers(30, 1200)
        )  # a file takes about ten; the child goes on while the news travels
        with subprocess.Popen(
            [sys.executable, CHILD, "process", folder], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert len(child.stdout.read(operations)) == operations
            child.send_signal(signal.SIGKILL)
            killed += child.wait() == -signal.SIGKILL
        seen.append(len(Mirror.open_existing(folder / "mirror")))
    assert killed == 10
    assert seen == sorted(seen)
    assert 0 < seen[-1] < 900
    done = subprocess.run(
        [sys.executable, CHILD, "process", folder], stdout=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0
    thousand.check(folder)


@pytest.mark.slow
def test_a_kill_at_any_file_operation_loses_and_duplicates_nothing(tmp_path: Path) -> None:
    template = tmp_path / "hospital"
    stream = make_stream(template, num_good=2, num_each=0)
    one, _ = sorted((template / "inbox").iterdir())
    (template / "inbox" / "again.dcm").write_bytes(one.read_bytes())
    other = one.read_bytes()[:-2] + b"\1\2"  # another image of the same UID
    for name, content in (("letter.dcm", b"a letter"), ("other.dcm", other)):
        (template / "inbox" / name).write_bytes(content)
    space = tmp_path / "space"
    done = subprocess.run(
        [sys.executable, CHILD, "crash", template, space],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    broken = {
        ("duplicate", hashlib.sha256(other).hexdigest()),
        ("not_dicom", hashlib.sha256(b"a letter").hexdigest()),
    }
    assert len(lines) > 40
    assert [line["code"] for line in lines] == [9] * (len(lines) - 1) + [0]
    for line in lines:
        assert set(line["mirror"]) == set(line["archive"]) == stream.images
        assert len(line["mirror"]) == len(line["archive"]) == 2
        assert {(reason, digest) for reason, digest in line["quarantine"]} == broken
        assert len(line["quarantine"]) == 2
        assert line["half"] == []
        assert [
            path for path in line["left"] if not path.split("/inbox/")[1].startswith(".taking")
        ] == []
        assert line["again"] == vars(IntakeReport())

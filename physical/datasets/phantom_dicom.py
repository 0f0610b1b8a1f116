"""Phantom CT slices as DICOM files with invented patients, as a scanner sends them.

For demos and tests. The slices are those of ``phantom`` (same anatomy, same boxes around organs)
in Hounsfield units at any size. Names, numbers, UIDs and pixels follow from a generator and a
seed: equal arguments give equal bytes.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from physical.datasets import phantom
from physical.datasets.phantom_anatomy import CLASS_NAMES, make_patient

if TYPE_CHECKING:
    from pydicom import Dataset

BODY_PARTS = {name.upper().replace("-", "_"): name for name in CLASS_NAMES}
"""BodyPartExamined as a code string -> class name; usable as ``class_names`` of an intake."""
SLOPE, INTERCEPT = 1.0, -1024.0
_FAMILY = (
    *("ACKERMANN", "BELLWETHER", "CASTLEMAINE", "DUNNOCK"),
    *("EVERGREEN", "FAIRWEATHER", "GREENSLADE", "HOLLOWAY"),
)
_GIVEN = ("ADA", "BRUNO", "CLARA", "DESMOND", "EDITH", "FELIX", "GRETA", "HUGO")
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class MadePatient:
    """Identity of an invented patient, as a sender writes it.

    Args:
        name: Family^given.
        number: Patient ID.
        birth_date: "YYYYMMDD".
        sex: "F" or "M".
        study_uid: Of the one study.
        series_uid: Of the one series.
    """

    name: str
    number: str
    birth_date: str
    sex: str
    study_uid: str
    series_uid: str


@dataclass(frozen=True)
class PhantomSlice:
    """A slice near an organ's middle.

    Args:
        patient: Number of the made patient.
        organ: Class name of what it shows.
        hounsfield: Densities, [S, S] [HU].
    """

    patient: int
    organ: str
    hounsfield: NDArray[np.float64]


def make_identity(rng: np.random.Generator) -> MadePatient:
    """Return an invented patient with random name and numbers."""
    family, given = _FAMILY[rng.integers(len(_FAMILY))], _GIVEN[rng.integers(len(_GIVEN))]
    name = f"{family}^{given}{rng.integers(10_000):04d}"
    born = f"{rng.integers(1930, 2000)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    return MadePatient(
        name,
        f"MADE-{rng.integers(10**8):08d}",
        born,
        "FM"[rng.integers(2)],
        make_uid(rng),
        make_uid(rng),
    )


def make_uid(rng: np.random.Generator) -> str:
    """Return a valid UID drawn at random."""
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big')}"


def phantom_slices(
    rng: np.random.Generator,
    organs: Collection[str],
    patients: range,
    slices_per_organ: int = 1,
    size: int = 64,
    seed: int = phantom.SEED,
) -> Iterator[PhantomSlice]:
    """Yield axial slices, patient by patient and organ by organ.

    Args:
        rng: Source of the boxes and the noise.
        organs: Class names, some of ``phantom_anatomy.CLASS_NAMES``.
        patients: Numbers of synthetic patients; those of the published phantom are 0 to 42.
        slices_per_organ: Slices of each organ of each patient.
        size: Height and width [px].
        seed: Seed of the patients.
    """
    for number in patients:
        patient = make_patient(seed, number)
        for organ in organs:
            for step in range(slices_per_organ):
                low, high = phantom.crop_box(
                    patient.organs[organ], "axial", (step + 0.5) / slices_per_organ, rng
                )
                # two samples a pixel in each direction give soft edges
                places = (np.arange(2 * size) + 0.5) / (2 * size)
                x, y = (low[axis] + (high[axis] - low[axis]) * places for axis in (0, 1))
                density = phantom.density_on_grid(
                    patient, (x[None, :], y[:, None], np.full((1, 1), low[2])), low, high
                )
                pooled = density.reshape(size, 2, size, 2).mean(axis=(1, 3))
                # close to a normal deviate
                noise = patient.noise * 1.732 * (rng.random((4, size, size)).sum(axis=0) - 2)
                yield PhantomSlice(number, organ, pooled + noise)


def ct_dataset(
    hounsfield: NDArray[np.floating],
    identity: MadePatient,
    sop_uid: str,
    body_part: str | None = None,
    number: int = 1,
) -> "Dataset":
    """Return a CT image as a scanner writes it, with its patient's identity in many places.

    Args:
        hounsfield: Densities, [H, W]; rounded, from -1024 to 3071 [HU].
        identity: Identity of the patient.
        sop_uid: SOP Instance UID of the image.
        body_part: BodyPartExamined; None leaves the element out.
        number: Number of the image in its series.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = _CT_IMAGE_STORAGE
    data.SOPInstanceUID = sop_uid
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Modality = "CT"
    data.Manufacturer = "Made scanner"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20240219"
    data.StudyTime = data.ContentTime = "083000"
    data.AccessionNumber, data.StudyID = f"A{identity.number[-6:]}", identity.number[-6:]
    data.InstitutionName = "Made hospital"
    data.StationName = "CT7"
    data.OperatorsName = "OPERATOR^MADE"
    data.ReferringPhysicianName = "REFERRER^MADE"
    data.StudyDescription = f"Abdomen of {identity.name}"
    data.PatientName, data.PatientID = identity.name, identity.number
    data.PatientBirthDate = identity.birth_date
    data.PatientSex = identity.sex
    data.PatientComments = f"{identity.name} was here"
    data.StudyInstanceUID, data.SeriesInstanceUID = identity.study_uid, identity.series_uid
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = f"{identity.series_uid}.1"[:64], ""
    data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = 1, 1, number
    data.KVP, data.SliceThickness, data.PatientPosition = 120, 5, "HFS"
    data.ImagePositionPatient = [0, 0, 5 * number]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [1, 1]
    if body_part is not None:
        data.BodyPartExamined = body_part
    _add_private(data, identity)
    _add_pixels(data, hounsfield)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def dicom_bytes(data: "Dataset") -> bytes:
    """Return a data set as a DICOM file."""
    from pydicom import dcmwrite

    stream = BytesIO()
    dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def write_phantom_dicom(
    folder: Path,
    rng: np.random.Generator,
    organs: Mapping[str, bool],
    patients: range,
    slices_per_organ: int = 1,
    size: int = 64,
    seed: int = phantom.SEED,
) -> list[Path]:
    """Write phantom slices into a folder; each file appears whole by a rename.

    Args:
        folder: Where to write; created if missing.
        rng: Source of identities, UIDs, boxes and noise.
        organs: Class name -> whether BodyPartExamined names it; False leaves the element out.
        patients: Numbers of synthetic patients.
        slices_per_organ: Slices of each organ of each patient.
        size: Height and width [px].
        seed: Seed of the patients.

    Returns:
        Paths of the files, in the order of writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identities = {number: make_identity(rng) for number in patients}
    codes = {name: code for code, name in BODY_PARTS.items()}
    written: list[Path] = []
    for count, part in enumerate(
        phantom_slices(rng, list(organs), patients, slices_per_organ, size, seed), start=1
    ):
        body_part = codes[part.organ] if organs[part.organ] else None
        data = ct_dataset(
            part.hounsfield, identities[part.patient], make_uid(rng), body_part, count
        )
        path = folder / f"{data.SOPInstanceUID}.ready.dcm"
        temporary = path.with_name(f".{path.name}.part")
        temporary.write_bytes(dicom_bytes(data))
        temporary.replace(path)
        written.append(path)
    return written


def _add_private(data: "Dataset", identity: MadePatient) -> None:
    block = data.private_block(0x0019, "MADE SCANNER 1", create=True)
    block.add_new(0x01, "LO", f"raw data of {identity.name}")


def _add_pixels(data: "Dataset", hounsfield: NDArray[np.floating]) -> None:
    stored = np.clip(np.rint((hounsfield - INTERCEPT) / SLOPE), 0, 4095).astype("<u2")
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = SLOPE, INTERCEPT, "HU"
    data.WindowCenter, data.WindowWidth = 40, 400
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = stored.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = stored.tobytes()

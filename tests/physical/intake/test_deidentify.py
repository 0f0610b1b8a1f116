from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread, uid
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import encapsulate, generate_frames

from physical.datasets.dicom import ct_frames
from physical.datasets.dicom_file import Limits, parse_ct, stored_values
from physical.datasets.phantom_dicom import dicom_bytes
from physical.intake.deidentify import TABLE, Action, action_of, deidentify, to_bytes
from physical.intake.pseudonyms import Pseudonyms
from tests.physical.intake.basic_profile import BASIC_PROFILE

SECRET = "ZORBLAX"
FILLINGS = {
    "DA": "19991231",
    "TM": "235959.77",
    "DT": "19991231235959",
    "AS": "077Y",
    "UI": "1.2.77.99.31415926",
    "DS": "77.125",
    "US": 40777,
}
IDENTITY_BYTES = [
    b"19991231",
    b"235959",
    b"077Y",
    b"1.2.77.99",
    b"77.125",
    SECRET.encode(),
    SECRET.lower().encode(),
]


def clean_of(content: bytes, pseudonyms: Pseudonyms) -> tuple[Dataset, bytes]:
    parsed = parse_ct(content, Limits())
    written = to_bytes(deidentify(parsed, stored_values(parsed, Limits()), pseudonyms))
    return dcmread(BytesIO(written)), written


def fill(data: Dataset, keyword: str) -> None:
    kind = dictionary_VR(keyword)
    if kind == "SQ":
        inner = Dataset()
        inner.PatientName, inner.CodeMeaning = SECRET, SECRET
        setattr(data, keyword, Sequence([inner]))
    elif kind in ("OB", "OW"):
        data.add_new(keyword, kind, SECRET.encode() + b"!")
    elif kind in FILLINGS:
        setattr(data, keyword, FILLINGS[kind])
    else:
        setattr(data, keyword, SECRET)


def test_nothing_of_the_basic_profiles_list_survives(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    data = made()
    for keyword in BASIC_PROFILE:
        assert tag_for_keyword(keyword) is not None, keyword
        if keyword not in (
            "SOPInstanceUID",
            "PatientSize",
            "PatientWeight",
            "PregnancyStatus",
            "PatientSex",
        ):
            fill(data, keyword)
    data.PatientSex, data.PatientSize, data.PatientWeight, data.PregnancyStatus = (
        "O",
        77.125,
        77.125,
        40777,
    )
    original_uid = str(data.SOPInstanceUID)
    clean, written = clean_of(dicom_bytes(data), pseudonyms)
    for keyword in BASIC_PROFILE:
        action = action_of(keyword)
        assert action is not Action.KEEP, keyword
        if action is Action.REMOVE:
            assert keyword not in clean
        elif action is Action.EMPTY:
            assert not clean[keyword].value
        else:
            assert clean[keyword].value != data[keyword].value
    pixels = clean.PixelData
    for secret in (*IDENTITY_BYTES, original_uid.encode()):
        assert secret not in written.replace(pixels, b"")


def test_private_overlays_and_unknown_elements_are_removed(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    data = made()
    block = data.private_block(0x0029, "SOMEBODY", create=True)
    block.add_new(0x10, "LO", SECRET)
    data.add_new(0x60000010, "US", 16)
    data.add_new(0x60003000, "OW", SECRET.encode() + b"!")
    data.add_new(0x50000005, "US", 1)
    data.add_new(0x00180EFE, "LO", SECRET)  # nobody's yet
    clean, written = clean_of(dicom_bytes(data), pseudonyms)
    assert SECRET.encode() not in written
    assert not [
        element
        for element in clean
        if element.tag.is_private or element.tag.group in (0x5000, 0x6000)
    ]


def test_the_file_records_the_deidentification_method(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    clean, written = clean_of(dicom_bytes(made()), pseudonyms)
    assert clean.PatientIdentityRemoved == "YES"
    assert "PS3.15" in clean.DeidentificationMethod
    assert len(clean.DeidentificationMethod) <= 64
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert (
        clean.PatientName == clean.PatientID == pseudonyms.of("patient", str(made().PatientID), "")
    )
    assert (
        clean.file_meta.MediaStorageSOPInstanceUID
        == clean.SOPInstanceUID
        == pseudonyms.uid(str(made().SOPInstanceUID))
    )
    assert written[:128] == b"\0" * 128


def test_the_same_file_gives_the_same_bytes_and_another_key_others(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    content = dicom_bytes(made())
    assert clean_of(content, pseudonyms)[1] == clean_of(content, pseudonyms)[1]
    other, _ = clean_of(content, Pseudonyms(b"x" * 32))
    mine, _ = clean_of(content, pseudonyms)
    for keyword in (
        "PatientID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
    ):
        assert other[keyword].value != mine[keyword].value


def test_images_of_a_patient_and_a_study_stay_together(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    one, two, stranger = made(1), made(2), made(3)
    two.PatientID, two.StudyInstanceUID = one.PatientID, one.StudyInstanceUID
    first, second, third = (
        clean_of(dicom_bytes(each), pseudonyms)[0] for each in (one, two, stranger)
    )
    assert (first.PatientID, first.StudyInstanceUID) == (second.PatientID, second.StudyInstanceUID)
    assert first.PatientID != third.PatientID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_a_patient_without_a_number_gets_one_pseudonym_per_study(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    one, two = made(1, PatientID=""), made(2, PatientID="")
    assert (
        clean_of(dicom_bytes(one), pseudonyms)[0].PatientID
        != clean_of(dicom_bytes(two), pseudonyms)[0].PatientID
    )
    two.StudyInstanceUID = one.StudyInstanceUID
    assert (
        clean_of(dicom_bytes(one), pseudonyms)[0].PatientID
        == clean_of(dicom_bytes(two), pseudonyms)[0].PatientID
    )


@pytest.mark.parametrize("signed", [False, True])
def test_densities_survive(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms, signed: bool
) -> None:
    data = made()
    if signed:
        data.PixelRepresentation, data.RescaleIntercept = 1, 0
        data.PixelData = (np.arange(256, dtype="<i2") - 100).tobytes()
    parsed = parse_ct(dicom_bytes(data), Limits())
    before = next(ct_frames(parsed, stored_values(parsed, Limits())))
    clean = parse_ct(clean_of(dicom_bytes(data), pseudonyms)[1], Limits())
    after = next(ct_frames(clean, stored_values(clean, Limits())))
    np.testing.assert_array_equal(before.hounsfield, after.hounsfield)
    assert (before.spacing, before.window) == (after.spacing, after.window)


def test_data_hidden_between_the_pixels_is_not_kept(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    data = made()
    hidden = np.frombuffer(data.PixelData, "<u2") | 0x5000  # in unused bits
    data.PixelData = hidden.tobytes() + SECRET.encode() + b"!"  # and behind the last pixel
    _, written = clean_of(dicom_bytes(data), pseudonyms)
    assert SECRET.encode() not in written
    assert np.frombuffer(dcmread(BytesIO(written)).PixelData, "<u2").max() < 4096
    data = made(size=32)
    data.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    comment = SECRET.encode()
    place = frame.index(b"\xff\x90")  # the first tile: comments stand before it
    frame = (
        frame[:place]
        + b"\xff\x64"
        + (len(comment) + 4).to_bytes(2, "big")
        + b"\0\1"
        + comment
        + frame[place:]
    )
    data.PixelData = encapsulate([frame])
    content = dicom_bytes(data)
    assert SECRET.encode() in content
    assert SECRET.encode() not in clean_of(content, pseudonyms)[1]


def test_words_in_place_of_codes_are_not_kept(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    data = made()
    data.BodyPartExamined, data.PatientPosition, data.ImageType = (
        "A" * 14,
        "B" * 14,
        ["ORIGINAL", "PRIMARY", "C" * 14],
    )
    content = dicom_bytes(data)
    for letter in b"ABC":
        content = content.replace(bytes([letter]) * 14, f"{SECRET}^{SECRET}"[:14].encode())
    assert content.count(SECRET.encode()) == 3
    clean, written = clean_of(content, pseudonyms)
    assert SECRET.encode() not in written
    assert not {"BodyPartExamined", "PatientPosition", "ImageType"} & set(clean.dir())


def test_sequences_that_are_kept_are_cleaned_within(
    made: Callable[..., Dataset], pseudonyms: Pseudonyms
) -> None:
    data, group, measures = made(), Dataset(), Dataset()
    measures.PixelSpacing, measures.PatientName = [1, 1], SECRET
    group.PixelMeasuresSequence, group.ImageComments = Sequence([measures]), SECRET
    data.SharedFunctionalGroupsSequence = Sequence([group])
    clean, written = clean_of(dicom_bytes(data), pseudonyms)
    assert clean.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [1, 1]
    assert SECRET.encode() not in written


def test_every_keyword_of_the_table_exists() -> None:
    assert all(tag_for_keyword(keyword) for keyword in TABLE)

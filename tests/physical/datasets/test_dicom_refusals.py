from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate, generate_frames

from physical.datasets.dicom import read_ct
from physical.datasets.dicom_file import DicomError, Limits, parse_ct, value_of
from physical.datasets.phantom_dicom import dicom_bytes
from physical.datasets.refusal import Reason
from tests.physical.datasets.made_ct import WIDE, body, enhanced, large, made, reason_of

Change = Callable[[Dataset], object]

REFUSED: dict[str, tuple[Reason, Change]] = {
    "no pixels": (Reason.NOT_AN_IMAGE, lambda data: data.__delitem__("PixelData")),
    "another modality": (Reason.NOT_CT, lambda data: setattr(data, "Modality", "MR")),
    "another class": (Reason.NOT_CT, lambda data: setattr(data, "SOPClassUID", uid.MRImageStorage)),
    "a secondary capture": (
        Reason.NOT_CT,
        lambda data: setattr(data, "SOPClassUID", uid.SecondaryCaptureImageStorage),
    ),
    "no UID": (Reason.NO_SOP_UID, lambda data: data.__delitem__("SOPInstanceUID")),
    "empty UID": (Reason.NO_SOP_UID, lambda data: setattr(data, "SOPInstanceUID", "")),
    "burnt in": (
        Reason.BURNT_IN_ANNOTATION,
        lambda data: setattr(data, "BurnedInAnnotation", "YES"),
    ),
    "too many rows": (Reason.TOO_LARGE, lambda data: setattr(data, "Rows", 60_000)),
    "too many frames": (Reason.TOO_LARGE, lambda data: setattr(data, "NumberOfFrames", 1_000_000)),
    "no frames": (Reason.BAD_PIXELS, lambda data: setattr(data, "NumberOfFrames", 0)),
    "no rows": (Reason.BAD_PIXELS, lambda data: data.__delitem__("Rows")),
    "more rows than pixels": (Reason.BAD_PIXELS, lambda data: setattr(data, "Rows", 25)),
    "more pixels than rows": (
        Reason.BAD_PIXELS,
        lambda data: setattr(data, "PixelData", data.PixelData * 2),
    ),
    "colour": (Reason.BAD_PIXELS, lambda data: setattr(data, "SamplesPerPixel", 3)),
    "a palette": (
        Reason.BAD_PIXELS,
        lambda data: setattr(data, "PhotometricInterpretation", "PALETTE COLOR"),
    ),
    "32 bits": (Reason.BAD_PIXELS, lambda data: setattr(data, "BitsAllocated", 32)),
    "bits at the top": (Reason.BAD_PIXELS, lambda data: setattr(data, "HighBit", 15)),
    "no slope": (Reason.BAD_RESCALE, lambda data: data.__delitem__("RescaleSlope")),
    "no intercept": (Reason.BAD_RESCALE, lambda data: setattr(data, "RescaleIntercept", None)),
    "slope 0": (Reason.BAD_RESCALE, lambda data: setattr(data, "RescaleSlope", 0)),
    "electron density": (Reason.BAD_RESCALE, lambda data: setattr(data, "RescaleType", "ED")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files_have_a_reason(name: str) -> None:
    reason, change = REFUSED[name]
    data = made()
    change(data)
    stream = BytesIO()
    data.file_meta.ImplementationClassUID = uid.UID("1.2.3")
    data.save_as(stream, enforce_file_format=False)
    content = b"\0" * 128 + b"DICM" + stream.getvalue().removeprefix(b"\0" * 128 + b"DICM")
    assert reason_of(content) is reason


@pytest.mark.parametrize("content", [b"", b"Dear doctor", b"\0" * 1000, b"\0" * 128 + b"DICN"])
def test_other_files_are_not_dicom(content: bytes) -> None:
    assert reason_of(content) is Reason.NOT_DICOM


def test_a_file_cut_anywhere_is_refused() -> None:
    whole = dicom_bytes(made(body(8, 8)))
    assert parse_ct(whole + b"\0" * 7, Limits())
    reasons = {length: reason_of(whole[:length]) for length in range(len(whole))}
    assert {reasons[length] for length in range(132)} == {Reason.NOT_DICOM}
    assert {reasons[length] for length in range(len(whole) - 128, len(whole))} == {Reason.TRUNCATED}
    # between two elements a cut file cannot be told from one that has no pixels
    assert set(reasons.values()) == {Reason.NOT_DICOM, Reason.TRUNCATED, Reason.NOT_AN_IMAGE}
    assert sum(reason is Reason.NOT_AN_IMAGE for reason in reasons.values()) < 100


def test_a_cut_compressed_file_is_refused() -> None:
    data = made()
    data.compress(uid.RLELossless, generate_instance_uid=False)
    whole = dicom_bytes(data)
    assert {reason_of(whole[:-length]) for length in range(1, 200)} == {Reason.TRUNCATED}


def test_a_damaged_codestream_is_bad_pixels() -> None:
    data = large()
    data.compress(uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(data.PixelData, number_of_frames=1))
    data.PixelData = encapsulate([frame[:60]])
    assert reason_of(dicom_bytes(data)) is Reason.BAD_PIXELS


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2.4.100", "1.2.3.4", uid.DeflatedExplicitVRLittleEndian]
)
def test_transfer_syntaxes_without_a_decoder_are_refused(syntax: str) -> None:
    whole = dicom_bytes(made())
    old, new = b"1.2.840.10008.1.2.1\0", syntax.encode()
    parsed = dcmread(BytesIO(whole))
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        parsed.file_meta.TransferSyntaxUID = uid.UID(syntax)
        stream = BytesIO()
        parsed.save_as(stream)
        content = stream.getvalue()
    else:
        parsed.file_meta.TransferSyntaxUID = uid.UID(syntax)
        parsed["PixelData"].is_undefined_length = True
        parsed.PixelData = encapsulate([parsed.PixelData])
        stream = BytesIO()
        parsed.save_as(stream, implicit_vr=False, little_endian=True)
        content = stream.getvalue()
    assert old not in content and new in content
    assert reason_of(content) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


def test_limits_hold_before_anything_is_read() -> None:
    whole = dicom_bytes(made())
    for limits in (
        Limits(file_bytes=len(whole) - 1),
        Limits(side_pixels=23),
        Limits(decoded_bytes=24 * 24 * 2 - 1),
    ):
        assert reason_of(whole, limits) is Reason.TOO_LARGE
    assert reason_of(dicom_bytes(enhanced(3)), Limits(frames=2)) is Reason.TOO_LARGE
    assert read_ct(whole, 16, WIDE, Limits(len(whole), 24, 1, 24 * 24 * 2)).shape == (1, 16, 16)
    with pytest.raises(ValueError, match="limits are"):
        Limits(frames=0)


def test_a_file_of_very_many_elements_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("physical.datasets.dicom_file._MOST_READS", 100)
    assert reason_of(dicom_bytes(made())) is Reason.TOO_LARGE


def test_deeply_nested_sequences_are_refused() -> None:
    head = dicom_bytes(made())
    nest = (
        bytes.fromhex("0800 4011 5351 0000 ffffffff feff 00e0 ffffffff".replace(" ", "")) * 20_000
    )
    start = head.index(b"\x10\x00\x10\x00PN")
    assert reason_of(head[:start] + nest) in (Reason.TRUNCATED, Reason.TOO_LARGE)


def test_refusals_do_not_quote_the_file() -> None:
    for _, change in REFUSED.values():
        data = made(PatientName="SECRET^NAME", PatientID="SECRET")
        change(data)
        stream = BytesIO()
        data.save_as(stream, enforce_file_format=False)
        with pytest.raises(DicomError) as caught:
            read_ct(stream.getvalue(), 16, WIDE)
        assert "SECRET" not in str(caught.value)


def test_bad_values_are_not_quoted_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    content = dicom_bytes(made(BodyPartExamined="A" * 14)).replace(b"A" * 14, b"SECRET^OF^JANE")
    parsed = parse_ct(content, Limits())
    assert value_of(parsed, "BodyPartExamined") == "SECRET^OF^JANE"
    assert "SECRET" not in caplog.text


def test_a_damaged_transfer_syntax_is_refused_and_not_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = dicom_bytes(made()).replace(b"1.2.840.10008.1.2.1\0", b"\x00.2.840.10008.1.2.1\0")
    assert reason_of(content) is Reason.UNSUPPORTED_TRANSFER_SYNTAX
    assert caplog.text == ""


@given(st.integers(132, 1500), st.binary(min_size=1, max_size=8))
def test_any_damage_raises_a_dicom_error(place: int, damage: bytes) -> None:
    whole = dicom_bytes(made(body(8, 8)))
    content = whole[:place] + damage + whole[place + len(damage) :]
    try:
        assert read_ct(content, 8).shape[1:] == (8, 8)
    except DicomError as error:
        assert error.reason in Reason

import pytest

from physical.datasets.phantom_dicom import BODY_PARTS
from physical.intake.config import IntakeConfig
from physical.intake.report import IntakeReport


def test_without_a_list_the_senders_word_is_the_class_name() -> None:
    assert IntakeConfig().class_of("  KIDNEY   LEFT ") == "kidney left"
    for nothing in (None, "", "  ", "x" * 65, "a\x00b"):
        assert IntakeConfig().class_of(nothing) is None


def test_with_a_list_only_its_words_give_a_class_name() -> None:
    config = IntakeConfig(class_names=BODY_PARTS)
    assert config.class_of("kidney_left") == "kidney-left"
    assert config.class_of("ABDOMEN") is None


def test_free_text_gives_a_class_name_only_by_a_list() -> None:
    with pytest.raises(ValueError, match="may hold a patient's name"):
        IntakeConfig(label_tag="StudyDescription")
    assert (
        IntakeConfig(label_tag="StudyDescription", class_names={"liver scan": "liver"}).class_of(
            "Liver Scan"
        )
        == "liver"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 4},
        {"settle_seconds": -1},
        {"most_attempts": 0},
        {"window_width": 0},
        {"class_names": {"a": " b"}},
        {"windows": 1},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        IntakeConfig(**change)  # type: ignore[arg-type]  # invalid values


def test_reports_add_up() -> None:
    one, other = (
        IntakeReport(1, 2, 3, {"truncated": 1}, 5),
        IntakeReport(10, 20, 30, {"truncated": 2, "duplicate": 1}, 4),
    )
    both = one + other
    assert both == IntakeReport(11, 22, 33, {"duplicate": 1, "truncated": 3}, 4)
    assert both.num_quarantined == 4

import pytest

from benchmarks.profiling import group_of
from benchmarks.run_all import PARTS, report, wrapped


@pytest.mark.parametrize(
    ("name", "ancestors", "group"),
    [
        ("aten::mkldnn_convolution", ["aten::_convolution"], "convolution forward"),
        ("aten::mkldnn_convolution", ["aten::conv2d", "range: teacher"], "teacher"),
        ("aten::convolution_backward", ["ConvolutionBackward0"], "convolution backward"),
        ("aten::native_batch_norm", [], "normalisation"),
        ("aten::native_batch_norm_backward", [], "normalisation"),
        ("aten::add_", ["Optimizer.step#SGD.step"], "optimiser"),
        ("aten::bmm", ["BmmBackward0"], "attention"),
        ("aten::mul", ["range: augmentation"], "augmentation"),
        ("aten::copy_", ["aten::_to_copy"], "copies and casts"),
        ("aten::relu", [], "pointwise"),
    ],
)
def test_an_operator_belongs_to_the_nearest_name_around_it_or_to_its_own(
    name: str, ancestors: list[str], group: str
) -> None:
    assert group_of(name, ancestors) == group


def test_parts_of_the_report_have_names_of_their_own() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)


def test_a_report_says_what_was_skipped_and_that_tiny_numbers_mean_nothing() -> None:
    text = report(["## Part\n\nnumbers\n"], ["scale"], tiny=True)
    assert "Skipped: scale." in text
    assert "No number here means anything" in text
    assert "## Part" in text


def test_prose_of_the_report_is_wrapped_and_tables_are_not() -> None:
    row, prose = f"| {'x' * 120} |", "* " + "word " * 30
    lines = wrapped(f"{row}\n\n{prose}").splitlines()
    assert lines[:2] == [row, ""]
    assert [len(line) <= 100 for line in lines[2:]] == [True, True]
    assert lines[3].startswith("  word")

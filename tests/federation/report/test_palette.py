"""Contrast of every colour that carries text or a mark, in both themes."""

from __future__ import annotations

import pytest

from federation.report.palette import HEAT_STEPS, THEMES, contrast, heat_step

TEXT = ("ink", "muted", "link", "green", "vermilion")
MARKS = ("blue", "vermilion", "green", "purple", "amber", "grey")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", TEXT)
def test_text_can_be_read_on_page_and_panel(theme: str, name: str) -> None:
    colours = THEMES[theme]
    assert min(contrast(colours[name], colours[ground]) for ground in ("page", "panel")) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", MARKS)
def test_marks_stand_out_from_the_panel(theme: str, name: str) -> None:
    assert contrast(THEMES[theme][name], THEMES[theme]["panel"]) >= 3


@pytest.mark.parametrize("theme", THEMES)
def test_numbers_can_be_read_on_every_step_of_the_heat_map(theme: str) -> None:
    colours = THEMES[theme]
    assert all(
        contrast(colours[f"heat-{step}"], colours[f"on-heat-{step}"]) >= 4.5
        for step in range(HEAT_STEPS)
    )
    assert contrast(colours["notice"], colours["ink"]) >= 4.5


def test_black_on_white_has_the_greatest_contrast() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_a_share_above_nothing_is_never_drawn_as_nothing() -> None:
    assert [heat_step(share) for share in (0.0, 0.001, 0.5, 1.0)] == [0, 1, 5, 10]

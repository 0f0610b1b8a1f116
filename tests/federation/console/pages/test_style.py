import re
from itertools import pairwise, product
from pathlib import Path
from typing import Any, cast

import pytest

import federation.console
from federation.report.palette import THEMES, contrast

STATIC = Path(federation.console.__file__).parent / "static"
CSS = re.sub(
    r"/\*.*?\*/", "", (STATIC / "console.css").read_text(encoding="utf-8"), flags=re.DOTALL
)
TEXT, MARK = 4.5, 3.0  # WCAG AA: text; edges and marks


def rules() -> list[tuple[str, dict[str, str]]]:
    found = re.findall(r"([^{}]+)\{([^{}]*)\}", CSS)
    return [
        (name.strip(), dict(re.findall(r"([\w-]+)\s*:\s*([^;]+);", body))) for name, body in found
    ]


def theme(selector: str) -> dict[str, str]:
    (found,) = [body for name, body in rules() if name == selector and "--page" in body]
    return {
        name[2:]: value
        for name, value in found.items()
        if name.startswith("--") and value.startswith("#")
    }


LIGHT, DARK = theme(":root"), theme(':root[data-theme="dark"]')
# Text that takes its ground from something around it: (text, grounds).
INHERITED = {
    "ink": ("page", "panel", "soft", "notice", "info-soft", "good-soft", "bad-soft"),
    "muted": ("page", "panel", "soft", "info-soft"),
    "link": ("page", "panel", "soft", "info-soft", "notice"),
    "green": ("panel", "info-soft"),
    "vermilion": ("panel", "info-soft", "bad-soft"),
}
MARKS = dict.fromkeys(
    ("blue", "vermilion", "green", "amber", "grey", "field-edge", "accent"), ("panel",)
) | {"blue": ("panel", "page")}


def named(value: str | None) -> str:
    hit = re.fullmatch(r"var\(--([\w-]+)\)", (value or "").strip())
    return cast(Any, hit[1] if hit else None)


def stated_pairs() -> set[tuple[str, str]]:
    pairs = {(named(body.get("color")), named(body.get("background"))) for _, body in rules()}
    return {(text, ground) for text, ground in pairs if text and ground}


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_has_enough_contrast_with_its_ground(colours: dict[str, Any]) -> None:
    pairs = stated_pairs() | {
        pair for text, grounds in INHERITED.items() for pair in product([text], grounds)
    }
    assert len(pairs) > 20
    poor = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < TEXT} == {}


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_marks_and_edges_stand_out_from_their_ground(colours: dict[str, Any]) -> None:
    poor = {
        (mark, ground): contrast(colours[mark], colours[ground])
        for mark, grounds in MARKS.items()
        for ground in grounds
    }
    assert {pair: ratio for pair, ratio in poor.items() if ratio < MARK} == {}


def test_the_chosen_dark_theme_equals_that_of_the_system() -> None:
    assert theme(':root:not([data-theme="light"])') == DARK
    assert set(LIGHT) == set(DARK)


def test_colours_are_those_of_the_report() -> None:
    for colours, of_report in ((LIGHT, THEMES["light"]), (DARK, THEMES["dark"])):
        shared = set(colours) & set(of_report)
        assert len(shared) > 12
        assert {name: colours[name] for name in shared} == {
            name: of_report[name] for name in shared
        }


def test_every_colour_that_is_used_is_defined() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", CSS)) - {"shadow"}
    assert used <= set(LIGHT)
    bare = [
        (name, value)
        for name, body in rules()
        for prop, value in body.items()
        if re.search(r"#[0-9a-f]{3,8}\b", value) and prop[:2] != "--"
    ]
    assert bare == [("body", "#fff")]  # paper


def test_style_and_scripts_fetch_nothing() -> None:
    assert "url(" not in CSS and "@import" not in CSS
    for script in STATIC.glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert not re.search(r"https?:|innerHTML|eval\(|document\.write|\.style\b", text), script


def test_the_style_supports_reduced_motion_print_and_focus() -> None:
    moving = re.findall(
        r"transition|animation", CSS.split("@media (prefers-reduced-motion: no-preference)")[0]
    )
    assert moving == []
    assert "@media print" in CSS and ":focus-visible" in CSS
    assert not re.search(r"outline:\s*(0|none)", CSS)


def test_media_queries_go_from_wide_to_narrow() -> None:
    widths = [int(width) for width in re.findall(r"\(max-width: (\d+)px\)", CSS)]
    assert all(wide > narrow for wide, narrow in pairwise(widths))

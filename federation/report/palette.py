"""Colours of the report, light and dark, with enough contrast.

Figures are drawn once with placeholder colours; the page's style sheet says what each means in
either theme. The hues follow Okabe and Ito's colour-blind safe set, darkened for paper and
lightened for a dark screen; no figure relies on colour alone. Knows no figure and no page.
"""

from __future__ import annotations

import re

HEAT_STEPS = 11
_LINEAR_BELOW = 0.04045  # the sRGB curve is a straight line for values this dark
_SERIES = ("blue", "vermilion", "green", "purple", "amber", "grey")
_LIGHT = {
    "page": "#f4f6f8",
    "panel": "#ffffff",
    "ink": "#1b1f24",
    "muted": "#545d68",
    "grid": "#d5dbe1",
    "soft": "#e9edf1",
    "link": "#0b5c98",
    "blue": "#0068a6",
    "vermilion": "#b84700",
    "green": "#007453",
    "purple": "#98397a",
    "amber": "#8a6000",
    "grey": "#5d6671",
    "notice": "#fff6dd",
    "notice-edge": "#8a6000",
}
_DARK = {
    "page": "#0e1216",
    "panel": "#171c22",
    "ink": "#e8edf2",
    "muted": "#a2adb9",
    "grid": "#343c46",
    "soft": "#252c34",
    "link": "#7cc4f5",
    "blue": "#5bb7ec",
    "vermilion": "#ff9257",
    "green": "#35cfa2",
    "purple": "#e7a0cc",
    "amber": "#eebb48",
    "grey": "#a5b0bb",
    "notice": "#2c2614",
    "notice-edge": "#eebb48",
}
_HEAT_ANCHORS = {
    "light": ("#f2f6fa", "#5d9fd0", "#08306b"),
    "dark": ("#20272f", "#2f6c9c", "#c4e5ff"),
}


def luminance(colour: str) -> float:
    """Relative luminance of a hex colour as the contrast rules of WCAG define it, 0 to 1."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [
        value / 12.92 if value <= _LINEAR_BELOW else ((value + 0.055) / 1.055) ** 2.4
        for value in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two hex colours, 1 to 21; text wants 4.5, lines and marks want 3."""
    bright, dim = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _heat(anchors: tuple[str, str, str]) -> dict[str, str]:
    ramp: dict[str, str] = {}
    for step in range(HEAT_STEPS):
        place = 2 * step / (HEAT_STEPS - 1)
        low, high = (anchors[0], anchors[1]) if place <= 1 else (anchors[1], anchors[2])
        share = place if place <= 1 else place - 1
        mixed = (
            round(int(low[i : i + 2], 16) * (1 - share) + int(high[i : i + 2], 16) * share)
            for i in (1, 3, 5)
        )
        colour = "#" + "".join(f"{value:02x}" for value in mixed)
        ramp[f"heat-{step}"] = colour
        ramp[f"on-heat-{step}"] = max("#000000", "#ffffff", key=lambda text: contrast(text, colour))
    return ramp


THEMES: dict[str, dict[str, str]] = {
    "light": _LIGHT | _heat(_HEAT_ANCHORS["light"]),
    "dark": _DARK | _heat(_HEAT_ANCHORS["dark"]),
}
_NAMES = tuple(THEMES["light"])
# A figure is painted in these stand-ins; nothing else on earth is painted in them, so they can be
# found and exchanged afterwards.
_PLACEHOLDERS = {name: f"#fe01{index:02x}" for index, name in enumerate(_NAMES)}


def paint(name: str) -> str:
    """Placeholder colour to draw with; ``themed`` turns it into the theme's colour."""
    return _PLACEHOLDERS[name]


def series(index: int) -> str:
    """Placeholder colour of the index-th curve."""
    return paint(_SERIES[index % len(_SERIES)])


def heat_step(share: float) -> int:
    """Step of the heat ramp for a share between 0 and 1.

    Only an exact (or negative) nothing gets step 0.
    """
    if share <= 0:
        return 0
    return max(1, min(HEAT_STEPS - 1, round(share * (HEAT_STEPS - 1))))


def themed(svg: str) -> str:
    """Exchange placeholders for style-sheet variables, with the light colour.

    Where there is no style sheet.
    """
    return re.sub(r"#fe01([0-9a-f]{2})", lambda hit: _variable(_NAMES[int(hit[1], 16)]), svg)


def _variable(name: str) -> str:
    return f"var(--{name}, {THEMES['light'][name]})"


def style_sheet() -> str:
    """The variables of both themes; the reader's system chooses."""
    light, dark = (
        ";".join(f"--{name}:{colour}" for name, colour in THEMES[theme].items())
        for theme in ("light", "dark")
    )
    return (
        f":root{{color-scheme:light dark;{light}}}@media "
        f"(prefers-color-scheme:dark){{:root{{{dark}}}}}"
    )

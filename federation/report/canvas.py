"""Conversion of matplotlib figures to SVG inside a page.

The text stays text (it can be searched, zoomed and read aloud), the colours follow the reader's
theme, identifiers do not clash with those of the next figure, and nothing points outside the page.
The only importer of matplotlib; knows nothing of what is drawn.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from federation.report.palette import paint, themed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_STACK = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
NARROW_PIXELS = 346  # a phone of 390 px less its margins
HALF_PIXELS = 528  # one of two columns
FULL_PIXELS = 1092  # both columns
_LONGEST_LABEL = 22

Hover = Mapping[str, str]  # group identifier -> text shown when the pointer rests there


def draw(
    name: str, size: tuple[float, float], alt: str, paint_on: Callable[[Figure], Hover | None]
) -> bytes:
    """Draw a figure and give it back as SVG.

    Args:
        name: Short name, the prefix of all identifiers; letters, digits and hyphens.
        size: Width and height [px].
        alt: What a reader who cannot see the figure is told.
        paint_on: Paints on an empty figure; may return texts to show on hover, by group identifier
            (``set_gid``).

    Returns:
        The SVG element, UTF-8.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context(_settings()), warnings.catch_warnings():
        # Names in scripts that matplotlib's font lacks are measured roughly but drawn by the
        # browser, which has the letters.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message=r".*constrained_layout not applied.*", category=UserWarning
        )
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        hover = paint_on(figure) or {}
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    return _for_page(buffer.getvalue(), name, alt, hover).encode()


def label(text: str, longest: int = _LONGEST_LABEL) -> str:
    """A name short enough for an axis and without control characters, which no XML may hold."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text).strip() or "?"
    if len(clean) <= longest:
        return clean
    # Both ends stay: names that begin alike mostly differ in how they end.
    end = (longest - 1) // 2
    return clean[: longest - 1 - end].rstrip() + "\u2026" + clean[-end:].lstrip()


def quiet(axes: Axes, grid: str | None = "y") -> None:
    """Take away what carries no information: the frame above and right, the ticks' strokes.

    A faint grid stays.
    """
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    if grid == "both":
        axes.grid(visible=True)
    elif grid:
        axes.grid(visible=True, axis="x" if grid == "x" else "y")


def _settings() -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "report",
        "text.parse_math": False,  # a class called "$x_" is a name, no formula
        "font.family": "DejaVu Sans",  # wider than what browsers use, so what fits here fits there
        "font.size": 13,
        "axes.titlesize": 13,
        "axes.labelsize": 13,
        "xtick.labelsize": 12,
        "ytick.labelsize": 12,
        "legend.fontsize": 12,
        "legend.frameon": False,
        "axes.unicode_minus": True,
        "axes.axisbelow": True,
        "text.color": paint("ink"),
        "axes.labelcolor": paint("ink"),
        "axes.titlecolor": paint("ink"),
        "axes.edgecolor": paint("muted"),
        "xtick.color": paint("ink"),
        "ytick.color": paint("ink"),
        "grid.color": paint("grid"),
        "grid.linewidth": 0.8,
        "hatch.color": paint("muted"),
        "hatch.linewidth": 0.8,
        "lines.linewidth": 2.0,
    }


def _for_page(svg: str, name: str, alt: str, hover: Hover) -> str:
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = body.replace('<style type="text/css">*{', f"<style>#{name}-figure_1 *{{")
    for group, text in hover.items():
        found = f'<g id="{group}">'
        body = body.replace(found, f"{found}<title>{html.escape(label(text, 200))}</title>", 1)
    # Only inside tags: a class may be called 'id="' and keeps its name.
    body = re.sub(r"<[^>]*>", lambda tag: _for_page_tag(tag[0], name), body)
    opening = body[: body.index(">") + 1]
    box = re.search(r'viewBox="([^"]*)"', opening)
    across, down = box[1].split()[2:] if box else ("0", "0")
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {across} {down}" width="{float(across):.0f}" height="{float(down):.0f}" '
        f'role="img" aria-label="{html.escape(label(alt, 600))}">'
    )
    return head + body[len(opening) :].strip()


def _for_page_tag(tag: str, name: str) -> str:
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r"'DejaVu Sans'(, ?[^;\"]*)?(?=[;\"])", FONT_STACK, tag)
    return re.sub(r"\s+", " ", themed(tag))

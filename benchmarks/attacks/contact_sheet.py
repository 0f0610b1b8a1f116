"""Draws small grey images as a labelled picture: a row per method, a column per image."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

_SCALE = 3  # screen pixels of one image pixel
_GAP, _LEFT, _LINE = 6, 200, 14  # px: between images, room for labels, height of a line of text


def draw(rows: Mapping[str, Tensor], columns: list[str], footer: str, path: Path) -> None:
    """Write the picture.

    Args:
        rows: Images [P, 1, H, W] in [0, 1] by the row's label, which may have line breaks.
        columns: Label of each image.
        footer: Text below the images, such as their source.
        path: Path of the PNG file.
    """
    from PIL import Image, ImageDraw, ImageFont

    side = next(iter(rows.values())).shape[-1] * _SCALE
    step = side + _GAP
    size = (_LEFT + step * len(columns), 2 * _LINE + step * len(rows) + 2 * _LINE)
    sheet = Image.new("L", size, 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, label in enumerate(columns):
        pen.text((_LEFT + column * step + side // 2, _LINE), label, 0, font, anchor="mm")
    for row, (label, images) in enumerate(rows.items()):
        top = 2 * _LINE + row * step
        pen.multiline_text((_GAP, top + side // 2), label, 0, font, anchor="lm")
        for column in range(len(columns)):
            pixels = (images[column, 0].clamp(0, 1) * 255).round().numpy().astype(np.uint8)
            small = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(small, (_LEFT + column * step, top))
    pen.text((_GAP, size[1] - _LINE), footer, 0, font, anchor="lm")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)

"""Overlays of attention."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from federation.report.attention import MOST_EXAMPLES, agreement, overlay, pictures
from federation.report.folder import Examples


def test_equal_maps_agree_whatever_their_scale() -> None:
    attention = np.random.default_rng(0).random((7, 7))
    assert agreement(attention, 3 * attention) == pytest.approx(1)


def test_an_empty_map_agrees_with_nothing() -> None:
    assert agreement(np.zeros((4, 4)), np.ones((4, 4))) is None


def test_the_image_shines_most_where_attention_is() -> None:
    attention = np.zeros((4, 4))
    attention[1, 2] = 5
    tinted = overlay(np.zeros((32, 32, 3), np.uint8), attention).sum(axis=2)
    row, column = np.unravel_index(tinted.argmax(), tinted.shape)
    assert (row // 8, column // 8) == (1, 2)


def test_maps_that_are_not_finite_do_no_harm() -> None:
    assert overlay(np.zeros((8, 8, 3), np.uint8), np.full((2, 2), np.nan)).shape == (8, 8, 3)


def test_grey_and_coloured_images_become_pngs_and_too_many_are_left_out() -> None:
    count = MOST_EXAMPLES + 3
    for channels in (1, 3):
        maps = np.ones((count, 4, 4))
        examples = Examples(
            np.zeros((count, 28, 20, channels), np.uint8), maps, maps, ("liver",) * count
        )
        found = pictures(examples)
        assert len(found) == MOST_EXAMPLES
        image = Image.open(
            io.BytesIO(base64.b64decode(found[0].teacher.removeprefix("data:image/png;base64,")))
        )
        assert image.size == (found[0].width, found[0].height)

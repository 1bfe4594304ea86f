"""The figures of random strokes: fixed, no two alike, and with the digits' own ink."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tasks import strokes
from tasks.digits import read_scans
from tasks.strokes import STROKES_SHA256, stroke_figures


@pytest.fixture(scope="module")
def figures():
    return stroke_figures()


@pytest.fixture(scope="module")
def scans():
    return read_scans()[0]


def per_image(images):
    """(3, n): ink, pixels with any, and pixels full of it."""
    pixels = images.reshape(len(images), -1).astype(int)
    return np.stack([pixels.sum(1), (pixels > 0).sum(1), (pixels == 16).sum(1)])


def auroc(inside, outside):
    """By definition, over all pairs."""
    return (outside[:, None] > inside).mean() + (outside[:, None] == inside).mean() / 2


def test_four_hundred_figures_are_pinned_and_no_two_alike(figures):
    assert (figures.shape, figures.dtype, figures.min(), figures.max()) == ((400, 8, 8), np.uint8, 0, 16)
    assert hashlib.sha256(figures.tobytes()).hexdigest() == STROKES_SHA256
    assert len({figure.tobytes() for figure in figures}) == 400


def test_no_figure_is_a_scan(figures, scans):
    assert not {figure.tobytes() for figure in figures} & {scan.tobytes() for scan in scans}


def test_ink_and_its_spread_are_those_of_the_digits(figures, scans):
    found, wanted = per_image(figures), per_image(scans)
    assert (np.abs(found.mean(1) / wanted.mean(1) - 1) < [0.02, 0.02, 0.15]).all()
    assert (np.abs(found.std(1) / wanted.std(1) - 1) < [0.1, 0.1, 0.25]).all()


def test_all_grey_levels_occur_as_often_as_in_the_digits(figures, scans):
    found, wanted = (np.bincount(images.ravel(), minlength=17) / images.size for images in (figures, scans))
    assert np.abs(found - wanted).max() < 0.012


def test_neither_brightness_nor_area_nor_thickness_tells_figures_from_digits(figures, scans):
    for inside, outside in zip(per_image(scans), per_image(figures), strict=True):
        assert 0.42 < auroc(inside, outside) < 0.58


def test_figures_have_the_full_height_and_stand_in_the_middle(figures, scans):
    assert (figures.max(axis=2) > 0).mean() > 0.99
    columns = np.arange(8) - 3.5
    left = (figures.sum(1) * columns).sum(1) / figures.sum((1, 2))
    assert abs(left.mean()) < 0.25
    for images in (figures, scans):
        assert images[:, :, [0, 7]].mean() < 0.6


def test_a_figure_that_no_legal_pen_can_draw_is_drawn_again(monkeypatch):
    attempts, words = [], strokes._random_words
    monkeypatch.setattr(strokes, "_random_words", lambda text, count: attempts.append(text) or words(text, count))
    monkeypatch.setattr(strokes, "PENS", (128, 136))  # 2 to 2.125 pixels
    for number in range(10):
        strokes._figure(number)
    tries = [sum(text.startswith(f"strokes {number} ") for text in attempts) for number in range(10)]
    assert attempts == [f"strokes {number} {attempt}" for number in range(10) for attempt in range(tries[number])]
    assert max(tries) > 1

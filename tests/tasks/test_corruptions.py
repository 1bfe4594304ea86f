"""Corruptions: what each kind does, that severities are nested, and that an image's fate is its own."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tasks import corruptions
from tasks.corruptions import CORRUPTIONS, SEVERITIES, STRENGTHS, corrupt, corruptions_digest
from tasks.digits import read_scans

PINNED = [[3431131392, 1964194233, 4048015468], [2099719988, 2488618290, 148693889]]
DIGEST = "b8f0a8bcc6473b24f3d18198115ac76c17d1421db1084a1115f58f9befded7eb"
EVERY = pytest.mark.parametrize("corruption", CORRUPTIONS)


def scans(n: int = 60) -> torch.Tensor:
    return torch.from_numpy(read_scans()[0][:n]).float().unsqueeze(1) / 16


def centroids(images: torch.Tensor) -> torch.Tensor:
    """(n, 2): of the ink, x to the right and y downwards, in pixels from the centre."""
    line = torch.arange(images.shape[-1], dtype=torch.float64) - (images.shape[-1] - 1) / 2
    ink = images[:, 0].double()
    mass = ink.sum((1, 2))
    return torch.stack([(ink.sum(1) * line).sum(1) / mass, (ink.sum(2) * line).sum(1) / mass], dim=1)


def blob(side: int, x: float, y: float, n: int) -> torch.Tensor:
    """n images of one round spot, smooth enough that bilinear interpolation moves it without loss."""
    line = torch.arange(side) - (side - 1) / 2
    spot = torch.exp(-((line - x) ** 2) / 4) * torch.exp(-((line[:, None] - y) ** 2) / 4)
    return spot.expand(n, 1, side, side).contiguous()


@EVERY
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (3, 3, 11, 16)])
def test_shape_dtype_and_range_are_kept_and_the_images_too(corruption, severity, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    found = corrupt(images, corruption, severity)
    assert (found.shape, found.dtype) == (images.shape, torch.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.equal(found, images)
    assert torch.equal(images, before)


@EVERY
def test_what_becomes_of_an_image_depends_on_its_place_alone(corruption):
    images, some = scans(), [3, 41, 17]
    whole = corrupt(images, corruption, 3)
    torch.manual_seed(1)
    torch.testing.assert_close(corrupt(images[some], corruption, 3, places=some), whole[some], rtol=0, atol=1e-6)
    torch.testing.assert_close(corrupt(images[:5], corruption, 3), whole[:5], rtol=0, atol=1e-6)
    assert torch.equal(corrupt(images, corruption, 3), whole)


@EVERY
def test_an_image_is_changed_more_the_higher_the_severity(corruption):
    images = scans(200)
    changes = [(corrupt(images, corruption, severity) - images).abs().mean().item() for severity in SEVERITIES]
    assert all(low < 0.95 * high for low, high in itertools.pairwise(changes)), changes
    assert STRENGTHS[corruption] == tuple(sorted(STRENGTHS[corruption], reverse=corruption == "contrast"))


def test_a_shift_goes_the_same_way_at_every_severity_as_far_as_the_table_says():
    images, directions = blob(40, 0, 0, n=50), []
    for severity, sides in zip(SEVERITIES, STRENGTHS["shift"], strict=True):
        moved = centroids(corrupt(images, "shift", severity))
        torch.testing.assert_close(moved.norm(dim=1), torch.full((50,), 40 * sides).double(), rtol=0.01, atol=0)
        directions.append(moved / moved.norm(dim=1, keepdim=True))
    for direction in directions:
        torch.testing.assert_close(direction, directions[0], rtol=0, atol=0.01)
    assert directions[0].mean(dim=0).norm() < 0.3  # in all directions: the mean of 50 unit vectors is about 0.14


def test_a_rotation_turns_by_the_angle_of_the_table_to_a_fixed_side():
    images = blob(40, 9, 0, n=50)
    signs = []
    for severity, degrees in zip(SEVERITIES, STRENGTHS["rotation"], strict=True):
        x, y = centroids(corrupt(images, "rotation", severity)).T
        angles = torch.atan2(y, x)
        torch.testing.assert_close(angles.abs(), torch.full((50,), math.radians(degrees)).double(), rtol=0.01, atol=0)
        signs.append(angles.sign())
    assert all(torch.equal(each, signs[0]) for each in signs)
    assert 15 <= (signs[0] > 0).sum() <= 35


def test_a_rotation_of_an_oblong_image_does_not_distort_it():
    images = torch.zeros(1, 1, 20, 40)
    images[:, :, 8:12, 16:24] = 1
    turned = corrupt(images, "rotation", 5)
    assert turned.sum() == pytest.approx(32, rel=0.03)


@pytest.mark.parametrize("side", [21, 41])
def test_a_blur_spreads_a_point_by_the_deviation_of_the_table(side):
    images = torch.zeros(1, 1, side, side)
    images[..., side // 2, side // 2] = 1
    for severity, sides in zip(SEVERITIES, STRENGTHS["blur"], strict=True):
        found = corrupt(images, "blur", severity)[0, 0].double()
        line = torch.arange(side).double() - side // 2
        assert found.sum().item() == pytest.approx(1, abs=0.01)
        assert torch.equal(found, found.T)
        assert (found.sum(0) * line**2).sum().sqrt().item() == pytest.approx(side * sides, rel=0.03)


def test_noise_has_the_deviation_of_the_table_and_the_same_pattern_at_every_severity():
    images = torch.full((400, 1, 8, 8), 0.5)
    mild, severe = (corrupt(images, "noise", severity) - 0.5 for severity in (1, 5))
    assert mild.std().item() == pytest.approx(0.12, rel=0.02)  # 25,600 draws: a standard error of 0.4 %
    assert mild.mean().item() == pytest.approx(0, abs=0.003)
    unclipped = severe.abs() < 0.5
    torch.testing.assert_close(severe[unclipped], mild[unclipped] * 0.55 / 0.12, rtol=1e-4, atol=1e-5)
    assert len({tuple(image.flatten().tolist()) for image in mild}) == 400


def test_contrast_keeps_the_mean_and_the_share_of_the_table():
    images = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    found = corrupt(images, "contrast", 4)
    mean = images.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, mean + 0.4 * (images - mean))


def test_small_and_large_images_are_shifted_the_same_way_by_the_same_share_of_the_side():
    small, large = (centroids(corrupt(blob(side, 0, 0, n=20), "shift", 5)) / side for side in (20, 56))
    torch.testing.assert_close(small, large, rtol=0, atol=0.002)


def test_the_numbers_are_pinned():
    """Integers that a stream of SHA-3 gives; one that moves needs another VERSION."""
    found = corruptions._uniforms("noise", [0, 7], 3)
    assert (found * 2**32).astype("int64").tolist() == PINNED
    assert corruptions_digest() == DIGEST


def test_the_digest_changes_with_a_strength(monkeypatch):
    monkeypatch.setitem(STRENGTHS, "blur", (0.06, 0.08, 0.095, 0.115, 0.15))
    assert corruptions_digest() != DIGEST


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EVERY
def test_a_gpu_corrupts_as_the_cpu_does(corruption):
    found = corrupt(scans().cuda(), corruption, 5)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), corrupt(scans(), corruption, 5), rtol=0, atol=1e-5)


def test_an_unknown_corruption_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"(?s)'rotate'.*Did you mean 'rotation'\?.*blur, contrast"):
        corrupt(scans(2), "rotate", 1)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_severities_are_one_to_five(severity):
    with pytest.raises(ValueError, match=rf"severity {severity} is none of 1 \(mild\) to 5 \(severe\)"):
        corrupt(scans(2), "blur", severity)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 8, 8), r"float32 \(n, C, H, W\); got torch\.float32 \(2, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"got torch\.uint8"),
        (torch.full((2, 1, 8, 8), 16.0), r"in \[0, 1\], black to white; got 16 to 16"),
        (torch.full((2, 1, 8, 8), torch.nan), r"got nan to nan"),
    ],
)
def test_what_is_no_image_between_black_and_white_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, "blur", 1)


def test_every_image_needs_a_place():
    with pytest.raises(ValueError, match="3 images need as many places; got 2"):
        corrupt(scans(3), "shift", 1, places=[0, 1])

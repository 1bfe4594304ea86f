"""Noisy images: strength, range, blur, and what they are drawn from."""

from __future__ import annotations

import pytest
import torch
from last_block_cases import split
from torchvision.transforms.functional import gaussian_blur

from benchmark import Split
from methods.last_block_ensemble.noise import Noise, gaussian_filter


def noise(train: Split, low=0.5, high=2.0, blur=0.0, seed=0) -> Noise:
    return Noise(train, low, high, blur, torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1))


def grey(n: int = 400) -> Split:
    """Two channels with ranges of 1 and 10 around pixels in their middle."""
    inputs = torch.full((n, 2, 4, 4), 0.5)
    inputs[0], inputs[1] = 0.0, 1.0
    inputs[:, 1] *= 10
    return Split(inputs, torch.zeros(n, dtype=torch.int64))


def test_the_strength_is_a_share_of_each_channel_s_range():
    data = grey()
    change = noise(data, 1.0, 2.0)(data.inputs[2:]) - data.inputs[2:]
    peak = change.abs().amax((2, 3)) * 255 / 16 / torch.tensor([1.0, 10.0])  # (n, C)
    assert float(peak.max()) <= 2
    assert float(peak.amax(1).min()) > 0.6  # the largest of 32 values of at least U(-1, 1)
    assert float(change[:, 0].mean()) == pytest.approx(0, abs=2e-3)
    # E x^2 = E e^2 / 3 for x ~ U(-e, e), e ~ U(1, 2): 7/9; 398 images of 16 pixels: 3 %
    assert float((change[:, 1] * 255 / 160).square().mean()) == pytest.approx(7 / 9, rel=0.05)


def test_noisy_images_stay_within_the_range_of_the_training_data():
    data = split(50)
    made = noise(data, 8.0, 16.0, blur=0.5)
    noisy = made(data.inputs)
    assert torch.equal(made.black[:, 0, 0], data.inputs.amin((0, 2, 3)))
    assert torch.equal(made.white[:, 0, 0], data.inputs.amax((0, 2, 3)))
    assert (noisy >= made.black).all()
    assert (noisy <= made.white).all()
    assert (noisy == made.white).any()


def test_the_inputs_are_not_changed_and_noise_depends_on_the_generators_only():
    data = split(20)
    before = data.inputs.clone()
    first, again, other = (noise(data, blur=0.3, seed=seed)(data.inputs) for seed in (0, 0, 7))
    assert torch.equal(data.inputs, before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert noise(data)(data.inputs[:0]).shape == (0, 2, 5, 5)


@pytest.mark.parametrize(("radius", "deviation"), [(1, 0.4), (3, 2.0), (5, 5.0)])
def test_the_filter_is_a_gaussian_blur(radius, deviation):
    images = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    found = gaussian_filter(images, torch.tensor([radius]), torch.tensor([deviation]))
    expected = gaussian_blur(images, [2 * radius + 1] * 2, [deviation] * 2)
    inner = (..., slice(radius, -radius), slice(radius, -radius))  # edges are continued in another way
    assert torch.allclose(found[inner], expected[inner], atol=1e-6)


def test_every_image_has_its_own_filter_and_constant_ones_stay():
    images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    images[2] = 0.25
    together = gaussian_filter(images, torch.tensor([1, 5, 5]), torch.tensor([0.0, 3.0, 3.0]))
    assert torch.allclose(together[0], images[0])
    assert torch.allclose(together[1], gaussian_filter(images[1:2], torch.tensor([5]), torch.tensor([3.0]))[0])
    assert not torch.allclose(together[1], images[1], atol=0.05)
    assert torch.allclose(together[2], images[2])


def test_the_share_of_blurred_images_is_as_asked():
    data = split(1000)
    made = noise(data, 0.0, 1e-6, blur=0.25)
    changed = (made(data.inputs) - data.inputs).abs().amax((1, 2, 3)) > 1e-3
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.06)  # and a few narrow filters change nothing

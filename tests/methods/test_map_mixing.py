"""mixup and CutMix: which pixels, which labels, which random numbers."""

from __future__ import annotations

import statistics

import pytest
import torch
from map_cases import distance, fit
from torch.nn.functional import cross_entropy, one_hot

from methods.map.mixing import Batch, Mixing

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.rand(6, 3, 8, 10, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_without_mixing_the_batch_is_the_batch():
    batch = Mixing(0.0, 0.0, 1)(INPUTS, LABELS, 0)
    assert batch.inputs is INPUTS
    assert batch.partners is None


def test_mixup_is_the_weighted_mean_with_the_reversed_batch():
    before = INPUTS.clone()
    batch = Mixing(0.8, 0.0, 1)(INPUTS, LABELS, 3)
    assert 0 < batch.share < 1
    for place in range(6):
        expected = batch.share * INPUTS[place] + (1 - batch.share) * INPUTS[5 - place]
        assert torch.allclose(batch.inputs[place], expected, atol=1e-6)
    assert batch.partners is not None
    assert batch.partners.tolist() == [0, 4, 3, 2, 1, 0]
    assert torch.equal(INPUTS, before)


def test_cutmix_replaces_one_box_and_its_share_is_the_area_that_stayed():
    before, boxes = INPUTS.clone(), set()
    for t in range(30):
        batch = Mixing(0.0, 1.0, 1)(INPUTS, LABELS, t)
        replaced = (batch.inputs != INPUTS).all(dim=1)  # (6, 8, 10)
        assert torch.equal(replaced[0], replaced[4])
        rows, columns = replaced[0].any(dim=1).sum(), replaced[0].any(dim=0).sum()
        assert replaced[0].sum() == rows * columns  # a box
        assert batch.share == pytest.approx(1 - float(replaced[0].float().mean()))
        assert torch.equal(batch.inputs[0][:, replaced[0]], INPUTS[5][:, replaced[0]])
        boxes.add((int(rows), int(columns)))
    assert len(boxes) > 10
    assert torch.equal(INPUTS, before)


def test_the_loss_is_that_of_mixed_and_smoothed_targets():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(INPUTS, LABELS, LABELS.flip(0), 0.3)
    targets = 0.3 * one_hot(LABELS, 5).double() + 0.7 * one_hot(LABELS.flip(0), 5).double()
    smoothed = 0.9 * targets + 0.1 / 5
    assert float(batch.loss(logits, 0.1)) == pytest.approx(float(cross_entropy(logits, smoothed)), rel=1e-12)


def test_shares_have_the_moments_of_the_beta_distribution_and_a_coin_chooses_the_kind():
    small, labels = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1])
    shares = [Mixing(0.8, 0.0, 5)(small, labels, t).share for t in range(4000)]
    assert statistics.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert statistics.variance(shares) == pytest.approx(1 / (4 * (2 * 0.8 + 1)), rel=0.06)
    both = Mixing(0.8, 1.0, 5)
    kept = [bool(torch.isin(both(small, labels, t).inputs, small).all()) for t in range(1000)]  # CutMix moves pixels
    assert 0.45 < sum(kept) / 1000 < 0.55


def test_random_numbers_depend_on_seed_and_step_alone():
    a, b = Mixing(0.8, 1.0, 7), Mixing(0.8, 1.0, 7)
    for t in range(5):
        a(INPUTS, LABELS, t)
    torch.manual_seed(123)
    assert torch.equal(a(INPUTS, LABELS, 9).inputs, b(INPUTS, LABELS, 9).inputs)
    assert not torch.equal(a(INPUTS, LABELS, 9).inputs, a(INPUTS, LABELS, 10).inputs)
    assert not torch.equal(a(INPUTS, LABELS, 9).inputs, Mixing(0.8, 1.0, 8)(INPUTS, LABELS, 9).inputs)


def test_parts_of_a_batch_are_mixed_on_their_own():
    mixing = Mixing(0.8, 0.0, 1)
    shares = [mixing(INPUTS, LABELS, 0, part).share for part in (None, 0, 1)]
    assert len(set(shares)) == 3
    assert mixing(INPUTS, LABELS, 0, 1).share == shares[2] != mixing(INPUTS, LABELS, 1, 1).share


def test_the_partners_of_a_part_are_in_the_part(tmp_path):
    # Examples of a part of one are mixed with themselves: the training without mixing.
    config = {"batch_size": 20, "accumulate": 20, "optimiser": "sgd", "lr": 0.05}
    plain, mixed = fit(tmp_path / "plain", config), fit(tmp_path / "mixed", {**config, "mixup": 1.0})
    assert distance(plain, mixed) < 1e-6
    fewer = {**config, "accumulate": 10}
    assert distance(fit(tmp_path / "a", fewer), fit(tmp_path / "b", {**fewer, "mixup": 1.0})) > 1e-3


@pytest.mark.parametrize("setting", ["mixup", "cutmix"])
def test_members_mix_on_their_own(tmp_path, setting):
    plain = fit(tmp_path / "plain", {})
    mixed = fit(tmp_path / "mixed", {setting: 1.0})
    assert distance(plain, mixed) > 1e-4
    alike = [fit(tmp_path / name, {setting: 1.0, "member": 1}) for name in ("a", "b")]
    assert distance(*alike) == 0 < distance(mixed, alike[0])

"""Flip, crop, CutOut and RandAugment: per image, from the generator alone, and what their papers say."""

from __future__ import annotations

import pickle

import pytest
import torch
from torchvision.transforms import v2

from benchmark import Pixels, Split
from tasks import rand_augment
from tasks.augmentations import CutOut, FlipCrop, InTurn
from tasks.rand_augment import RandAugment
from tasks.resized import Resized
from tasks.shift import Shift

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BLACK = tuple(-mean / std for mean, std in zip(MEAN, STD, strict=True))
ALL = [
    FlipCrop(4, BLACK),
    CutOut(16),
    RandAugment(MEAN, STD),
    InTurn((FlipCrop(4, BLACK), CutOut(16))),
    Shift(2, -0.4),
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def pixels(n, seed=0, side=32):
    return torch.randint(0, 256, (n, 3, side, side), generator=seeded(seed), dtype=torch.uint8)


def normalised(levels):
    return Pixels(levels, MEAN, STD).read(slice(0, len(levels)))


@pytest.mark.parametrize("augment", ALL, ids=lambda each: type(each).__name__)
def test_an_augmentation_depends_on_its_generator_alone_and_keeps_its_input(augment):
    inputs = normalised(pixels(40))
    kept = inputs.clone()
    torch.manual_seed(1)
    first = augment(inputs, seeded(3))
    torch.manual_seed(2)
    again = pickle.loads(pickle.dumps(augment))(inputs, seeded(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(inputs, seeded(4)))
    assert torch.equal(inputs, kept)
    assert (first.shape, first.dtype) == (inputs.shape, torch.float32)


def test_flip_crop_gives_each_image_one_of_all_crops_and_mirror_images():
    image = torch.arange(1.0, 25.0).view(2, 3, 4)
    fill = (-7.0, -8.0)
    found = FlipCrop(1, fill)(image.expand(600, 2, 3, 4), seeded(0))
    padded = torch.stack([torch.full((5, 6), value) for value in fill])
    padded[:, 1:4, 1:5] = image
    crops = [padded[:, r : r + 3, c : c + 4] for r in range(3) for c in range(3)]
    expected = {tuple(crop.flatten().tolist()) for crop in [*crops, *(crop.flip(-1) for crop in crops)]}
    assert len(expected) == 18
    assert {tuple(each.flatten().tolist()) for each in found} == expected


def test_half_of_the_images_are_mirrored():
    inputs = torch.arange(8.0).view(1, 1, 1, 8).expand(4000, 1, 1, 8)
    flipped = (FlipCrop(0, (0.0,))(inputs, seeded(1))[:, 0, 0, 0] == 7).float().mean()
    assert flipped == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5)  # four standard errors


def test_cutout_blanks_one_square_that_the_border_may_cut():
    cut = CutOut(4)(torch.ones(3000, 2, 8, 8), seeded(0)) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    rows, columns = cut[:, 0].any(2), cut[:, 0].any(1)
    assert torch.equal(cut[:, 0], rows[:, :, None] & columns[:, None, :])
    # Rows centre-2 .. centre+1 for the centres 0..7, those outside of the image left out.
    spans = {tuple(row.nonzero().flatten().tolist()) for row in rows}
    assert spans == {tuple(range(max(0, centre - 2), min(8, centre + 2))) for centre in range(8)}
    assert {tuple(row.nonzero().flatten().tolist()) for row in columns} == spans


def test_every_operation_is_that_of_torchvision():
    """Against the class of transforms v2, image by image: the same names, strengths, signs and rounding."""
    images, official = pixels(5, seed=2), v2.RandAugment()
    space = v2.RandAugment._AUGMENTATION_SPACE
    operations = rand_augment._operations(9 / 30, 32, 32)
    assert len(operations) == len(space)
    for (operation, signed), (name, (levels, theirs)) in zip(operations, space.items(), strict=True):
        assert signed == theirs, name
        strengths = levels(31, 32, 32)
        for sign in (-1, 1) if signed else (1,):
            strength = 0.0 if strengths is None else sign * float(strengths[9])
            expected = [
                official._apply_image_or_video_transform(image, name, strength, official.interpolation, official._fill)
                for image in images
            ]
            found = operation(images, sign).int()
            if "Shear" in name or "Translate" in name or name in ("Rotate", "AutoContrast"):
                assert torch.equal(found, torch.stack(expected).int()), (name, sign)
            # A factor of 0.27 held as float32 and as float64 may round to neighbouring levels.
            assert (found - torch.stack(expected).int()).abs().max() <= 1, (name, sign)
            assert (found != torch.stack(expected)).float().mean() < 0.01, (name, sign)


def test_images_of_a_group_are_treated_as_if_alone_and_stay_within_the_range():
    levels = pixels(60, seed=5)
    operations = rand_augment._operations(0.3, 32, 32)
    drawn = torch.arange(60) % 14
    signs = torch.where(torch.arange(60) % 3 == 0, -1, 1)
    together = rand_augment._applied(levels, operations, [(drawn, signs)])
    for i in range(60):
        operation, _ = operations[drawn[i]]
        assert torch.equal(together[i], operation(levels[i : i + 1], int(signs[i]))[0])
    out = RandAugment(MEAN, STD)(normalised(levels), seeded(0))
    back = 255 * (out * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))
    assert (back - back.round()).abs().max() < 1e-3
    assert back.min() > -1e-3
    assert back.max() < 255 + 1e-3


@pytest.mark.parametrize("side", [32, 64])
def test_what_is_written_anew_for_the_device_equals_torchvision_bit_for_bit(side):
    from torchvision.transforms.v2 import functional as f

    levels = pixels(20, seed=3, side=side)
    levels[0] = 17  # a flat image
    for factor in (0.1, 0.73, 1.27, 1.9):
        assert torch.equal(rand_augment._sharpened(levels, factor), f.adjust_sharpness(levels, factor))
    assert torch.equal(rand_augment._stretched(levels), f.autocontrast(levels))
    for motion in (
        rand_augment._Motion(shear=(12.3, 0.0)),
        rand_augment._Motion(shear=(0.0, -12.3)),
        rand_augment._Motion(shift=(-3, 0)),
        rand_augment._Motion(shift=(0, 5)),
        rand_augment._Motion(turn=-9.0),
    ):
        assert torch.equal(rand_augment._moved(levels, motion), motion(levels)), motion


@pytest.mark.parametrize(
    ("augment", "transfers"),
    [(FlipCrop(4, BLACK), 1), (CutOut(16), 1), (Shift(2, -0.4), 1), (RandAugment(MEAN, STD), 1)],
    ids=lambda each: type(each).__name__,
)
def test_a_batch_sends_what_it_draws_at_once(augment, transfers, monkeypatch):
    """Counted on the CPU: constants are sent by the first batch, and nothing but the draws by the second."""
    counted = []

    def count(drawn, device):
        counted.append(drawn.shape)
        return drawn.to(device)

    inputs = normalised(pixels(200))
    augment(inputs, seeded(0))
    for module in ("tasks.augmentations", "tasks.rand_augment", "tasks.shift", "tasks.sending"):
        monkeypatch.setattr(f"{module}.sent", count)
    augment(inputs, seeded(1))
    assert len(counted) == transfers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augment", ALL, ids=lambda each: type(each).__name__)
def test_on_a_gpu_the_host_waits_for_nothing_and_the_numbers_stay(augment):
    inputs = normalised(pixels(200))
    on_device = inputs.cuda()
    augment(on_device, seeded(0))  # constants are sent
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = augment(on_device, seeded(3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    differs = (found.cpu() - augment(inputs, seeded(3))).abs() > 1e-4  # a level may round to its neighbour
    assert differs.float().mean() < 0.01


def test_rand_augment_without_layers_gives_the_image_back():
    inputs = normalised(pixels(10))
    assert torch.allclose(RandAugment(MEAN, STD, layers=0)(inputs, seeded(0)), inputs, atol=1e-5)


# -- enlarged inputs --------------------------------------------------------------------------------------------------


def test_enlarged_inputs_are_those_of_the_whole_tensor_enlarged():
    levels = pixels(9)
    inputs = Resized(Pixels(levels, MEAN, STD), 64)
    expected = torch.nn.functional.interpolate(normalised(levels), size=64, mode="bilinear", align_corners=False)
    assert inputs.shape == (9, 3, 64, 64)
    assert torch.equal(inputs.read(slice(2, 5)), expected[2:5])
    places = torch.tensor([7, 0, 3])
    assert torch.equal(inputs.read(places), expected[places])
    assert torch.equal(inputs.select(places).read(slice(0, 2)), expected[places[:2]])
    assert torch.equal(next(inputs.read_all([places])), expected[places])
    # Output row 5 lies a quarter below input row 2.
    flat = normalised(torch.arange(0, 256, 8, dtype=torch.uint8).view(1, 1, 32, 1).expand(1, 3, 32, 32).contiguous())
    rows = Resized(Pixels(levels, MEAN, STD), 64)._enlarged(flat)[0, 0, :, 10]
    assert rows[5] == pytest.approx((0.75 * flat[0, 0, 2, 5] + 0.25 * flat[0, 0, 3, 5]).item(), abs=1e-6)
    with pytest.raises(ValueError, match="can be enlarged, not reduced to 16x16"):
        Resized(Pixels(levels, MEAN, STD), 16)


def test_a_split_of_enlarged_inputs_trains_augmented_and_skips_what_it_has_done():
    labels = torch.arange(20)
    augment = InTurn((FlipCrop(8, BLACK), CutOut(32)))
    split = Split(Resized(Pixels(pixels(20), MEAN, STD), 64), labels, augment)
    whole = list(split.training_batches(6, seeded(0)))
    assert [tuple(inputs.shape) for inputs, _ in whole] == [(5, 3, 64, 64)] * 4
    rest = list(split.training_batches(6, seeded(0), skip=2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[2:], rest, strict=True))
    inputs, own = whole[0]
    assert not torch.equal(inputs, split.select(own).inputs)

"""What a split reads its inputs from: tensors, bytes, and anything that reads on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from benchmark.data import Split
from benchmark.inputs import Index, Inputs, Pixels, TensorInputs, normalised

BYTES = torch.arange(7 * 3 * 2 * 2, dtype=torch.uint8).view(7, 3, 2, 2)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counting(Inputs):
    """Inputs that say what was read; augmented by a number that depends on the seed and the place."""

    def __init__(self, places: Tensor) -> None:
        self.places, self.log = places, []

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), 1, 1, 1

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def augments(self) -> bool:
        return True

    def read(self, index: Index) -> Tensor:
        self.log.append(self.places[index].tolist())
        return self.places[index].float().view(-1, 1, 1, 1)

    def read_for_training(self, indices: Sequence[Index], seed: int) -> Iterator[Tensor]:
        return (self.read(index) + seed % 1000 for index in indices)

    def select(self, index: Index) -> Counting:
        return Counting(self.places[index])

    def to(self, device: torch.device | str) -> Counting:
        return self


def test_bytes_are_normalised_per_channel_when_they_are_read():
    expected = (BYTES.double() / 255 - torch.tensor(MEAN).double().view(-1, 1, 1)) / torch.tensor(STD).double().view(
        -1, 1, 1
    )
    found = Pixels(BYTES, MEAN, STD)
    assert found.read(slice(0, 7)).dtype == torch.float32
    torch.testing.assert_close(found.read(slice(0, 7)).double(), expected, rtol=0, atol=2e-6)
    index = torch.tensor([5, 0, 5])
    assert found.read(index).equal(normalised(BYTES[index], MEAN, STD))
    assert [batch.shape[0] for batch in found.read_all([slice(0, 4), slice(4, 7)])] == [4, 3]
    assert found.select(slice(2, 5)).read(slice(0, 3)).equal(found.read(slice(2, 5)))


@pytest.mark.parametrize(
    ("pixels", "mean", "std", "told"),
    [
        (BYTES.float(), MEAN, STD, "uint8"),
        (BYTES[0], MEAN, STD, "uint8"),
        (BYTES, MEAN[:2], STD, "3 channels"),
        (BYTES, MEAN, (0.5, 0.0, 0.1), "positive"),
    ],
)
def test_bytes_that_cannot_be_normalised_are_refused(pixels, mean, std, told):
    with pytest.raises(ValueError, match=told):
        Pixels(pixels, mean, std)


def test_a_split_of_bytes_trains_on_what_a_split_of_their_tensors_does():
    labels = torch.arange(7)
    bytes_, floats = Split(Pixels(BYTES, MEAN, STD), labels), Split(normalised(BYTES, MEAN, STD), labels)
    assert bytes_.inputs.equal(floats.inputs)
    for ours, theirs in zip(
        bytes_.training_batches(3, generator()), floats.training_batches(3, generator()), strict=True
    ):
        assert ours[0].equal(theirs[0])
        assert ours[1].equal(theirs[1])
    assert bytes_.select(torch.tensor([6, 1])).labels.tolist() == [6, 1]
    assert bytes_.select(torch.tensor([6, 1])).inputs.equal(floats.inputs[[6, 1]])
    assert isinstance(TensorInputs(floats.inputs).select(slice(0, 2)), TensorInputs)


def jitter(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + torch.rand(inputs.shape, generator=generator)


@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_skipped_batches_are_left_out_and_the_others_stay_what_they_are(skip):
    split = Split(normalised(BYTES, MEAN, STD), torch.arange(7), jitter)
    whole = list(split.training_batches(3, generator(4)))
    rest = list(split.training_batches(3, generator(4), skip=skip))
    assert len(rest) == len(whole) - skip
    for (inputs, labels), (same, own) in zip(whole[skip:], rest, strict=True):
        assert inputs.equal(same)
        assert labels.equal(own)


def test_skipped_batches_are_not_read():
    inputs = Counting(torch.arange(10))
    whole = list(Split(inputs, torch.arange(10)).training_batches(4, generator(1)))
    read = list(inputs.log)
    inputs.log.clear()
    rest = list(Split(inputs, torch.arange(10)).training_batches(4, generator(1), skip=2))
    assert inputs.log == read[2:]
    assert rest[0][0].equal(whole[2][0])


def test_inputs_that_augment_themselves_get_another_seed_every_epoch_and_none_for_evaluation():
    split = Split(Counting(torch.arange(6)), torch.arange(6))
    order = generator(3)
    first, second = (
        {int(label): float(x) for xs, ys in split.training_batches(2, order) for x, label in zip(xs, ys, strict=True)}
        for _ in range(2)
    )
    offsets = {value - label for label, value in first.items()}, {value - label for label, value in second.items()}
    assert len(offsets[0]) == len(offsets[1]) == 1
    assert offsets[0] != offsets[1]
    assert torch.cat([inputs for inputs, _ in split.batches(4)]).flatten().tolist() == list(range(6))


def test_without_augmentation_the_generator_decides_the_order_alone():
    split, used, expected = Split(normalised(BYTES, MEAN, STD), torch.arange(7)), generator(5), generator(5)
    list(split.training_batches(3, used))
    torch.randperm(7, generator=expected)
    assert used.get_state().equal(expected.get_state())

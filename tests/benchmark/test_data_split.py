"""A split of a data set: what it refuses, and how it is read in batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data import Split


def split(n: int, augment=None) -> Split:
    """Example i is an image of the number i, its label is i."""
    return Split(torch.arange(float(n)).view(n, 1, 1, 1).expand(n, 2, 3, 3).contiguous(), torch.arange(n), augment)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("inputs", "labels", "reason"),
    [
        (torch.zeros(2, 3, 3), torch.zeros(2).long(), r"inputs must be float32 \(n, C, H, W\); got .* \(2, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3).double(), torch.zeros(2).long(), "got torch.float64"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2).long(), "got torch.uint8"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(3).long(), r"labels must be int64 \(2,\); got torch.int64 \(3,\)"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2).int(), "got torch.int32"),
        (torch.zeros(2, 1, 3, 3), torch.zeros(2, 1).long(), r"got torch.int64 \(2, 1\)"),
        (torch.zeros(0, 1, 3, 3), torch.zeros(0).long(), "at least one example"),
    ],
)
def test_what_is_not_a_split_is_refused_with_what_was_found(inputs, labels, reason):
    with pytest.raises(ValueError, match=reason):
        Split(inputs, labels)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50))
def test_batches_are_the_examples_in_stored_order(n, size):
    batches = list(split(n).batches(size))
    assert len(batches) == split(n).steps(size)
    assert [len(labels) for _, labels in batches[:-1]] == [size] * (len(batches) - 1)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(n))
    assert all(inputs[:, 0, 0, 0].long().equal(labels) for inputs, labels in batches)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 3))
def test_training_batches_are_every_example_once_in_sizes_that_differ_by_at_most_one(n, size, seed):
    batches = list(split(n).training_batches(size, generator(seed)))
    sizes = [len(labels) for _, labels in batches]
    assert len(sizes) == split(n).steps(size)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(n))
    assert all(inputs[:, 0, 0, 0].long().equal(labels) for inputs, labels in batches)


def orders(seed: int, passes: int, augment=None) -> list[torch.Tensor]:
    source = generator(seed)
    return [torch.cat([inputs for inputs, _ in split(20, augment).training_batches(6, source)]) for _ in range(passes)]


def test_the_generator_alone_decides_the_order_and_every_pass_has_its_own():
    first, second = orders(0, 2)
    torch.manual_seed(99)
    assert torch.equal(orders(0, 1)[0], first)
    assert not torch.equal(first, second)
    assert not torch.equal(orders(1, 1)[0], first)


def jitter(inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return inputs + torch.rand(len(inputs), 1, 1, 1, generator=generator) / 2


def test_augmentation_is_drawn_from_the_same_generator_and_for_training_only():
    assert torch.equal(orders(0, 2, jitter)[1], orders(0, 2, jitter)[1])
    one, other = orders(0, 2, jitter)
    assert not torch.equal(one.sort(dim=0).values, other.sort(dim=0).values)
    plain = torch.cat([inputs for inputs, _ in split(20, jitter).batches(6)])
    assert torch.equal(plain, split(20).inputs)
    assert torch.equal(one.floor().long()[:, 0, 0, 0], orders(0, 1)[0].long()[:, 0, 0, 0])


def test_the_first_examples_share_memory_and_are_not_augmented():
    whole = split(5, jitter)
    part = whole.first(3)
    assert (len(part), part.augment) == (3, None)
    assert part.inputs.data_ptr() == whole.inputs.data_ptr()
    assert len(whole.first(99)) == 5


def test_a_split_that_is_on_the_device_already_is_itself():
    whole = split(3, jitter)
    assert whole.to("cpu") is whole
    assert whole.to("meta").augment is jitter

"""Members row by row: against one pass per member, value and gradient; the prefix once; nothing left behind."""

from __future__ import annotations

import pytest
import torch
from last_block_cases import COPIED, hooks, naive_features, network, split, stacks_of
from torch import nn
from torch.nn.functional import cross_entropy

from benchmark import ConfigError, forward, weights_of
from methods.last_block_ensemble.block import Place, feature_variance, run_members
from methods.last_block_ensemble.learner import Copies
from methods.last_block_ensemble.locate import LastBlock, locate
from methods.last_block_ensemble.members import ByMember, Layout

NAMES = tuple(f"block2.{layer}.{kind}" for layer in COPIED for kind in ("weight", "bias"))
PLACE = Place("block2", "block2")
CPU = torch.device("cpu")


def random_layout(examples: int, rows: int, members: int) -> tuple[Layout, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randint(examples, (rows,), generator=generator)
    assigned = torch.randint(members, (rows,), generator=generator)
    return Layout(chosen, assigned, members, CPU), chosen, assigned


def test_a_layout_sorts_rows_by_member_and_knows_the_way_back():
    members = torch.tensor([2, 0, 2, 3, 0])
    layout = Layout(torch.tensor([4, 3, 2, 1, 0]), members, 5, CPU)
    assert layout.counts == [2, 0, 2, 1, 0]
    assert layout.sources.tolist() == [3, 0, 4, 2, 1]
    assert layout.sorted_members.tolist() == [0, 0, 2, 2, 3]
    assert torch.equal(layout.sorted_members[layout.places], members)
    every = Layout.all_pairs(2, 3, CPU)
    assert every.counts == [2, 2, 2]
    assert every.sources[every.places].tolist() == [0, 1, 0, 1, 0, 1]


def test_one_pass_has_the_values_and_gradients_of_a_loop_over_members():
    net = network().double()
    inputs, labels = split(7).inputs.double(), split(7).labels
    stacks = {name: stack.requires_grad_() for name, stack in stacks_of(net, NAMES, 4).items()}
    shared = {name: tensor.clone() for name, tensor in weights_of(net).items() if name not in stacks}
    leaves = [
        *stacks.values(),
        *(shared[name].requires_grad_() for name in ("stem.weight", "block2.scale", "head.bias")),
    ]
    layout, chosen, assigned = random_layout(7, 12, 4)

    logits, features = run_members(net, PLACE, shared, stacks, inputs, layout)
    weight = torch.linspace(0.5, 2, features.numel(), dtype=torch.float64).view_as(features)
    together = torch.autograd.grad(cross_entropy(logits, labels[chosen]) + (weight * features.square()).mean(), leaves)

    rows = [{**shared, **{name: stack[member] for name, stack in stacks.items()}} for member in assigned.tolist()]
    apart_logits = torch.cat(
        [forward(net, row, inputs[i : i + 1]) for row, i in zip(rows, chosen.tolist(), strict=True)]
    )
    apart_features = torch.cat(
        [
            naive_features(net, [row], "block2", inputs[i : i + 1])[0]
            for row, i in zip(rows, chosen.tolist(), strict=True)
        ]
    )
    loss = cross_entropy(apart_logits, labels[chosen]) + (weight * apart_features.square()).mean()
    apart = torch.autograd.grad(loss, leaves)
    assert torch.allclose(logits, apart_logits, rtol=0, atol=1e-12)
    assert torch.allclose(features, apart_features, rtol=0, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(together, apart, strict=True))


def test_weights_before_the_block_run_once_and_no_hook_stays():
    net = network()
    rows = {"stem": [], "block2": [], "head": []}
    own = [
        module.register_forward_pre_hook(lambda module, args, name=name: rows[name].append(len(args[0])))
        for name, module in net.named_children()
        if name in rows
    ]
    before = hooks(net)
    feature_variance(net, PLACE, weights_of(net), stacks_of(net, NAMES, 3), split(6).inputs)
    assert rows == {"stem": [6], "block2": [6], "head": [18]}  # the block's own hook stands before the expansion
    assert hooks(net) == before == len(own)
    with pytest.raises(RuntimeError):
        feature_variance(net, PLACE, weights_of(net), stacks_of(net, NAMES, 3), torch.zeros(6, 9, 5, 5))
    assert hooks(net) == before


def test_batch_norm_of_the_block_sees_every_row_and_that_before_it_every_example():
    net = network()
    net.train()
    counted = {}
    for name in ("block1", "block2"):
        norm = getattr(net, name).norm
        norm.register_forward_hook(lambda module, args, output, name=name: counted.update({name: len(args[0])}))
    layout, _, _ = random_layout(6, 9, 3)
    shared = {name: tensor.clone() for name, tensor in weights_of(net).items()}
    run_members(net, PLACE, shared, stacks_of(net, NAMES, 3), split(6).inputs, layout)
    assert counted == {"block1": 6, "block2": 9}


def test_rows_of_one_example_next_to_each_other_share_its_member():
    stacks = {"weight": torch.randn(3, 2, 4), "bias": torch.randn(3, 2)}
    layout = Layout(torch.arange(4), torch.tensor([0, 2, 2, 1]), 3, CPU)
    ruled = ByMember(stacks, layout).weights()
    windows = torch.randn(8, 5, 4)  # two per example
    found = nn.functional.linear(windows, ruled["weight"], ruled["bias"])
    for row, member in enumerate([0, 0, 1, 1, 2, 2, 2, 2]):
        assert torch.allclose(found[row], windows[row] @ stacks["weight"][member].T + stacks["bias"][member], atol=1e-6)
    with pytest.raises(ConfigError, match="9 rows for 4 examples"):
        nn.functional.linear(torch.randn(9, 4), ruled["weight"])
    with pytest.raises(ConfigError, match=r"'weight'.*cannot have one weight per example.*mul"):
        torch.mul(ruled["weight"], 2)


def found_in(net: nn.Module, blocks: int = 1) -> LastBlock:
    return locate(net, blocks, split(20), 0)


def test_the_block_is_found_with_the_weights_that_can_have_copies():
    net = network()
    block = found_in(net)
    assert block.place == PLACE
    assert set(block.selection.bayesian) == set(NAMES)
    assert block.without_copies == ("block2.scale",)
    assert hooks(net) == 0
    two = found_in(net, 2)
    assert two.place == Place("block1", "block2")
    assert len(two.selection.bayesian) == 2 * len(NAMES)
    assert two.without_copies == ("block1.scale", "block2.scale")


def test_frozen_weights_of_the_block_stay_frozen():
    net = network()
    net.block2.conv.requires_grad_(False)
    block = found_in(net)
    assert not any(name.startswith("block2.conv") for name in block.selection.bayesian + block.selection.trained)
    assert {"block2.conv.weight", "block2.conv.bias"} <= set(block.selection.frozen)


class Around(nn.Module):
    """What enters the last block also goes around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([x, self.last(x)], 1).mean((2, 3)))


def test_a_path_around_the_block_makes_members_run_the_whole_network():
    net = Around()
    block = found_in(net)
    assert block.place == Place("", "last")
    stacks = stacks_of(net, block.selection.bayesian, 3)
    shared = weights_of(net)
    draws = [{**shared, **{name: stack[c] for name, stack in stacks.items()}} for c in range(3)]
    inputs = split(5).inputs
    expected = naive_features(net, draws, "last", inputs).var(0).flatten(1).mean(1)
    assert torch.allclose(feature_variance(net, block.place, shared, stacks, inputs), expected, atol=1e-6)


class Mixing(nn.Module):
    """The last block's rows are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.head = nn.Linear(5, 5), nn.Linear(50, 3)

    def forward(self, x):
        return self.head(self.last(x.flatten(1, 2).transpose(0, 1)).transpose(0, 1).flatten(1))


class CrossTalk(nn.Module):
    """Examples compare themselves with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = self.last(x).mean((2, 3))
        return self.head(x * x.square().sum())


class Pair(nn.Module):
    """The last block returns two tensors."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(50, 4)

        def forward(self, x):
            return self.linear(x), x

    def __init__(self) -> None:
        super().__init__()
        self.last, self.head = Pair.Last(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.last(x.flatten(1))[0])


class OnlyScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.PReLU(), nn.Linear(50, 3)

    def forward(self, x):
        return self.head(self.scale(x).flatten(1))


@pytest.mark.parametrize(
    ("net", "blocks", "message"),
    [
        (Mixing(), 1, "10 rows for 4 examples; the leading dimension must count examples"),
        (CrossTalk(), 1, "'last' mixes examples"),
        (Pair(), 1, "module 'last' does not return one tensor"),
        (OnlyScale(), 1, "no weight of the network's last block can have copies"),
        (network(), 9, "more than the 3 blocks"),
    ],
)
def test_networks_without_a_usable_block_are_refused(net, blocks, message):
    with pytest.raises(ConfigError, match=message):
        found_in(net, blocks)
    assert hooks(net) == 0


def test_copies_start_equal_and_one_is_drawn_by_the_generator():
    net = network()
    copies = Copies(net, NAMES, 5)
    for name, stack in copies.trained.items():
        assert stack.shape == (5, *net.get_parameter(name).shape)
        assert (stack == net.get_parameter(name)).all()
        stack += torch.arange(5.0).view(5, *[1] * (stack.dim() - 1))
    generator, base = torch.Generator().manual_seed(0), net.block2.conv.bias.detach()
    drawn = {float((copies.one(generator)["block2.conv.bias"] - base).mean().round()) for _ in range(60)}
    assert drawn == {0.0, 1.0, 2.0, 3.0, 4.0}

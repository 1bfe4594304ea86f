"""The posterior: members as draws, bytes, and the score against a loop over members."""

from __future__ import annotations

import pytest
import torch
from last_block_cases import hooks, naive_features, network, split, stacks_of
from torch import nn

from benchmark import BitReader, BitWriter, CorruptBitstream, PointMass, Split, forward, weights_of
from benchmark.predict import predict
from methods.last_block_ensemble import block
from methods.last_block_ensemble.locate import locate
from methods.last_block_ensemble.posterior import LastBlockPosterior
from tasks.networks.catalogue import CifarResNet, SmallDeiT, WideResNet


def posterior_on(net: nn.Module, examples, members: int = 3) -> LastBlockPosterior:
    """Disturbed copies of the network's last block."""
    found = locate(net, 1, examples, 0)
    stacks = stacks_of(net, found.selection.bayesian, members)
    shared = {name: tensor for name, tensor in weights_of(net).items() if name not in stacks}
    return LastBlockPosterior(shared, stacks, found.place)


def encoded(posterior) -> bytes:
    out = BitWriter()
    posterior.encode(out)
    return out.finish()


def draws_of(posterior, n: int) -> list:
    return list(posterior.draws(n, torch.Generator()))


def test_draws_are_the_members_in_order_and_start_over():
    net = network()
    posterior = posterior_on(net, split(20))
    assert posterior.support == 3
    assert posterior.mean() is None
    drawn = draws_of(posterior, 7)
    for index, weights in enumerate(drawn):
        assert set(weights) == set(weights_of(net))
        assert torch.equal(weights["block2.conv.weight"], posterior.stacks["block2.conv.weight"][index % 3])
        assert weights["stem.weight"] is drawn[0]["stem.weight"]


def test_the_posterior_survives_its_bytes_bit_for_bit():
    net = network()
    posterior = posterior_on(net, split(20))
    data = encoded(posterior)
    src = BitReader(data)
    decoded = LastBlockPosterior.decode(src, network(7))
    src.finish()
    assert decoded.place == posterior.place
    for own, read in ((posterior.shared, decoded.shared), (posterior.stacks, decoded.stacks)):
        assert list(own) == list(read)
        assert all(torch.equal(own[name], read[name]) for name in own)
    assert encoded(decoded) == data
    first, second = (predict(net, one, split(20, 2), 3, torch.Generator()) for one in (posterior, decoded))
    assert torch.equal(first.log_probs, second.log_probs)


def test_shared_weights_are_stored_once():
    net = network()
    sizes = [len(encoded(posterior_on(net, split(20), members))) for members in (3, 13)]
    copied = sum(stack[0].numel() for stack in posterior_on(net, split(20)).stacks.values())
    assert sizes[1] - sizes[0] == pytest.approx(10 * copied * 4, rel=0.05)


def test_foreign_bytes_are_refused():
    net = network()
    posterior = posterior_on(net, split(20))
    with pytest.raises(CorruptBitstream, match="another architecture"):
        LastBlockPosterior.decode(BitReader(encoded(posterior)), CifarResNet().build("resnet20", (1, 8, 8), 10))
    with pytest.raises(CorruptBitstream):
        LastBlockPosterior.decode(BitReader(encoded(PointMass(weights_of(net)))), net)
    out = BitWriter()
    out.json("place", {"entrance": "nowhere", "exit": "block2"})
    out.tensors("shared", posterior.shared)
    out.tensors("stacks", posterior.stacks)
    with pytest.raises(CorruptBitstream, match="another architecture"):
        LastBlockPosterior.decode(BitReader(out.finish()), net)


def test_a_single_member_is_no_ensemble():
    net = network()
    weights = weights_of(net)
    place = posterior_on(net, split(20)).place
    for stacks in ({}, {"stem.bias": torch.zeros(1, 4)}, {"a": torch.zeros(2, 4), "b": torch.zeros(3, 4)}):
        with pytest.raises(ValueError, match="number of members from 2"):
            LastBlockPosterior(weights, stacks, place)


def test_the_score_is_the_variance_over_one_whole_pass_per_member():
    net = network()
    posterior = posterior_on(net, split(20), 5)
    inputs, draws = split(9, 2).inputs, draws_of(posterior, 5)
    score = posterior.score(net, draws, inputs)
    assert posterior.score_name == "feature_variance"
    assert score.shape == (9,)
    assert score.dtype == torch.float32
    expected = naive_features(net, draws, "block2", inputs).var(0).flatten(1).mean(1)
    assert torch.allclose(score, expected, atol=1e-6)
    assert torch.allclose(
        posterior.score(net, draws[:2], inputs),
        naive_features(net, draws[:2], "block2", inputs).var(0).flatten(1).mean(1),
        atol=1e-6,
    )
    assert posterior.score(net, draws[:1], inputs) is None
    assert hooks(net) == 0


@pytest.mark.parametrize("kind", ["resnet", "wrn", "vit", "vit_last_block_and_norm"])
def test_the_score_holds_for_networks_of_the_suite_and_of_timm(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = (3, 16, 16)
        if kind == "resnet":
            net, features = CifarResNet().build("resnet20", shape, 10), "layer3.2"
        elif kind == "wrn":
            net, features = WideResNet().build("wrn-10-1", shape, 10), "bn"
        elif kind == "vit":
            net, features = SmallDeiT().build("deit-micro", shape, 10), "norm"
        else:
            import timm

            net = timm.create_model("test_vit", num_classes=10, img_size=32, patch_size=8)
            shape, features = (3, 32, 32), "norm"
    net.eval()
    inputs = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    posterior = posterior_on(net, Split(inputs, torch.arange(6)), 3)
    assert posterior.place.exit == features
    draws = draws_of(posterior, 3)
    with torch.no_grad():
        score = posterior.score(net, draws, inputs)
        expected = naive_features(net, draws, features, inputs).var(0).flatten(1).mean(1)
    assert (expected > 0.01).all()
    assert torch.allclose(score, expected, rtol=1e-4, atol=1e-6)


def test_the_score_is_differentiable_in_the_inputs_and_the_same_in_pieces(monkeypatch):
    net = network()
    posterior = posterior_on(net, split(20), 4)
    net.double()
    posterior.shared, posterior.stacks = (
        {name: tensor.double() for name, tensor in some.items()} for some in (posterior.shared, posterior.stacks)
    )
    draws = draws_of(posterior, 4)
    rows = []
    net.head.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = split(7, 2).inputs.double().requires_grad_()
        score = posterior.score(net, draws, inputs)
        (gradient,) = torch.autograd.grad(score.sum(), inputs)
        return score, gradient

    whole = run()
    monkeypatch.setattr(block, "ROWS", 12)
    rows.clear()
    pieces = run()
    assert rows == [12, 12, 4]
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(whole, pieces, strict=True))
    inputs = split(7, 2).inputs.double().requires_grad_()
    expected = naive_features(net, draws, "block2", inputs).var(0).flatten(1).mean(1)
    (gradient,) = torch.autograd.grad(expected.sum(), inputs)
    assert torch.allclose(whole[1], gradient, rtol=1e-8, atol=1e-12)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_a_member_is_an_ordinary_weight_sample():
    net = network()
    posterior = posterior_on(net, split(20))
    found = locate(net, 1, split(20), 0)
    inputs = split(5, 3).inputs
    layout = block.Layout.all_pairs(5, 3, torch.device("cpu"))
    logits, _ = block.run_members(net, found.place, posterior.shared, posterior.stacks, inputs, layout)
    apart = torch.cat([forward(net, weights, inputs) for weights in draws_of(posterior, 3)])
    assert torch.allclose(logits, apart, atol=1e-5)

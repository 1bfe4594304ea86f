"""The ensemble as a distribution to draw from, and as bytes."""

from __future__ import annotations

import pytest
import torch
from ensemble_cases import LAYERS, Tokens, factors, network
from small_problems import split
from torch import nn

from benchmark import BitReader, BitWriter, CorruptBitstream, PointMass, copy_of, weights_of
from benchmark.predict import predict
from methods.parameter_sharing_ensemble.factors import Factors
from methods.parameter_sharing_ensemble.posterior import SharedEnsemble


def ensemble(net: nn.Module, components: int = 4) -> SharedEnsemble:
    own = weights_of(net)
    shared = {name: own[name] for name in LAYERS}
    rest = {name: own[name] for name in own if name not in shared}
    return SharedEnsemble(shared, factors(shared, components), rest, facts={"components": components})


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(posterior: SharedEnsemble, n: int, seed: int = 7) -> list[dict[str, torch.Tensor]]:
    return [copy_of(weights) for weights in posterior.draws(n, seeded(seed))]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_all_components_come_in_order_whatever_the_generator_and_leave_it_alone():
    net = network()
    posterior = ensemble(net)
    assert posterior.support == 4
    generator = seeded()
    state = generator.get_state()
    list(posterior.draws(4, generator))
    assert torch.equal(generator.get_state(), state)
    every, again = drawn(posterior, 4, 7), drawn(posterior, 4, 8)
    assert all(same(a, b) for a, b in zip(every, again, strict=True))
    for i, j in ((0, 1), (1, 2), (0, 3)):
        assert not torch.equal(every[i]["head.weight"], every[j]["head.weight"])
    own = weights_of(net)
    made = factors({name: own[name] for name in LAYERS}, 4)
    for c, weights in enumerate(every):
        assert weights.keys() == own.keys()
        for name, tensor in weights.items():
            expected = own[name]
            if name in LAYERS:
                expected = expected * (made.left[name][c] @ made.right[name][c]).view_as(expected)
            assert torch.allclose(tensor, expected, atol=1e-6), name


def test_few_draws_are_the_first_of_many_and_many_start_over():
    posterior = ensemble(network())
    few, many = drawn(posterior, 2), drawn(posterior, 10)
    assert all(same(a, b) for a, b in zip(few, many, strict=False))
    assert all(same(many[index], many[index % 4]) for index in range(10))


def test_the_mean_is_that_of_the_components_weights():
    posterior = ensemble(network())
    every = drawn(posterior, 4)
    for name, tensor in posterior.mean().items():
        assert torch.allclose(tensor, torch.stack([weights[name] for weights in every]).mean(0), atol=1e-6), name


def test_an_ensemble_without_spread_predicts_as_its_only_network():
    net, data = network(), split(30)
    own = weights_of(net)
    shared = {name: own[name] for name in LAYERS}
    made = factors(shared, components=3, rank=1, spread=1e-7)
    posterior = SharedEnsemble(shared, made, {name: own[name] for name in own if name not in shared})
    found, expected = (predict(net, p, data, 3, seeded()).log_probs for p in (posterior, PointMass(own)))
    assert torch.allclose(found, expected, atol=1e-5)


def bytes_of(posterior: SharedEnsemble) -> bytes:
    out = BitWriter()
    posterior.encode(out)
    return out.finish()


def test_bytes_hold_every_bit():
    posterior = ensemble(network())
    data = bytes_of(posterior)
    src = BitReader(data)
    decoded = SharedEnsemble.decode(src, network(seed=1))
    src.finish()
    assert all(same(a, b) for a, b in zip(drawn(posterior, 4), drawn(decoded, 4), strict=True))
    assert bytes_of(decoded) == data


def test_bytes_of_another_architecture_are_refused():
    data = bytes_of(ensemble(network()))
    with pytest.raises(CorruptBitstream, match="architecture"):
        SharedEnsemble.decode(BitReader(data), nn.Linear(3, 2))
    with pytest.raises(CorruptBitstream, match="architecture"):
        SharedEnsemble.decode(BitReader(data), Tokens(classes=4))


@pytest.mark.parametrize("damage", ["rank", "components", "missing", "double", "flat"])
def test_factors_that_do_not_fit_are_refused(damage):
    own = weights_of(network())
    shared = {name: own[name] for name in LAYERS}
    rest = {name: own[name] for name in own if name not in shared}
    made = factors(shared, 4)
    left, right = dict(made.left), dict(made.right)
    if damage == "rank":
        left["head.weight"] = left["head.weight"][..., :1]
    elif damage == "components":
        right["mix.weight"] = right["mix.weight"][:2]
    elif damage == "missing":
        del right["mix.weight"]
    elif damage == "double":
        rest["mix.weight"] = shared["mix.weight"]
    else:
        left["stem.weight"] = left["stem.weight"][0]
    out = BitWriter()
    for section, tensors in (("shared", shared), ("left", left), ("right", right), ("rest", rest)):
        out.tensors(section, tensors)
    with pytest.raises(CorruptBitstream, match="architecture"):
        SharedEnsemble.decode(BitReader(out.finish()), network())
    if damage != "double":
        with pytest.raises(ValueError, match="factors"):
            SharedEnsemble(shared, Factors(left, right), rest)

"""Several runs of `map` as one posterior."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from benchmark import (
    BitReader,
    BitWriter,
    ConfigError,
    Context,
    NeededRun,
    PointMass,
    Posterior,
    Problem,
    Split,
    WeightSamples,
    weights_of,
)
from benchmark.predict import predict
from methods.deep_ensemble import DeepEnsemble


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def members(n):
    return [NeededRun("map", {"member": i}, {}, PointMass(weights_of(network(i)))) for i in range(n)]


def ensemble(folder, n, needed):
    split = Split(torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]))
    problem = Problem(network(0), network, split, None, (1, 2, 2), 3, draws=20)
    method = DeepEnsemble()
    ctx = Context(folder, ("t", "n", "deep_ensemble", 0), needed=needed)
    return method.fit(problem, ctx, method.Config(members=n))


def test_members_are_runs_of_map_numbered_from_the_base_network():
    method = DeepEnsemble()
    needs = method.needs(method.Config(members=3))
    assert [(need.method, need.config) for need in needs] == [("map", {"member": i}) for i in range(3)]
    assert len(method.needs(method.Config())) == 5


def test_the_posterior_holds_every_member_in_order(tmp_path):
    needed = members(3)
    posterior = ensemble(tmp_path, 3, needed)
    assert isinstance(posterior, WeightSamples)
    assert posterior.support == 3
    assert posterior.mean() is None
    drawn = [dict(sample) for sample in posterior.draws(3, torch.Generator())]
    for sample, run in zip(drawn, needed, strict=True):
        assert all(torch.equal(sample[name], tensor) for name, tensor in run.posterior.mean().items())


def test_the_prediction_is_the_mean_of_the_members_probabilities(tmp_path):
    posterior = ensemble(tmp_path, 3, members(3))
    split = Split(torch.randn(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64))
    found = predict(network(9), posterior, split, 20, torch.Generator())
    with torch.no_grad():
        expected = torch.stack([network(i)(split.inputs).double().softmax(-1) for i in range(3)]).mean(0)
    assert found.draws == 3
    assert torch.allclose(found.log_probs.exp().double(), expected, atol=1e-6)  # float32 of the stored logs


def test_bytes_hold_every_member_exactly(tmp_path):
    posterior = ensemble(tmp_path, 2, members(2))
    out = BitWriter()
    posterior.encode(out)
    src = BitReader(out.finish())
    back = DeepEnsemble().posterior_type().decode(src, network(0))
    src.finish()
    for mine, theirs in zip(posterior.members, back.members, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_missing_member_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="5 members needs 5 runs of 'map', got 3"):
        ensemble(tmp_path, 5, members(3))


def test_a_member_without_mean_weights_is_an_error(tmp_path):
    class Nowhere(Posterior):
        def draws(self, n, generator):
            yield from ()

    needed = [*members(1), NeededRun("other", {}, {}, Nowhere())]
    with pytest.raises(ConfigError, match="member 1 \\(a run of 'other'\\) has no mean weights"):
        ensemble(tmp_path, 2, needed)


def test_an_ensemble_of_one_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        DeepEnsemble.Config(members=1)

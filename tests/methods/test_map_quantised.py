"""The base network on K values: clusters on a line, equal bytes, the stored network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.cluster import KMeans
from small_problems import SHAPE, context_of, problem_of
from torch import nn

from benchmark import BitReader, BitWriter, ConfigError, CorruptBitstream, Diverged, NeededRun, PointMass, weights_of
from benchmark.cli.main import main
from benchmark.store import Store
from methods.finetuning.select import layer_weights
from methods.map_quantised import MapQuantised
from methods.map_quantised.fit import Quantiser, encoded_bytes
from methods.map_quantised.kmeans1d import Cells, companded, kmeans, merger_cost
from methods.map_quantised.match import largest, largest_within

# ---- clusters on a line --------------------------------------------------------------------------------------------


def sample(kind: str, n: int = 4000) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(n, generator=g)
    return {
        "normal": normal,
        "uniform": torch.rand(n, generator=g),
        "heavy tails": normal / torch.randn(n, generator=g).abs().clamp(min=0.01),
        "two clumps and a gap": torch.cat([normal[: n // 2] * 0.1, normal[n // 2 :] + 20]),
        "mostly zero": torch.where(torch.rand(n, generator=g) < 0.7, torch.zeros(()), normal),
    }[kind]


KINDS = ["normal", "uniform", "heavy tails", "two clumps and a gap", "mostly zero"]


@pytest.mark.parametrize("components", [2, 5, 16, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_objective_is_within_one_per_cent_of_that_of_sklearn_or_better(kind, components):
    x = sample(kind)
    cells = Cells.binned(x)
    clusters = kmeans(cells, components)
    theirs = KMeans(components, n_init=3, random_state=0).fit(x.double().numpy()[:, None]).inertia_
    assert len(clusters) == components
    assert clusters.distortion(cells) <= 1.01 * theirs


@pytest.mark.parametrize("kind", KINDS)
def test_centres_counts_distortion_and_entropy_are_those_of_the_labels(kind):
    x = sample(kind).double()
    cells = Cells.binned(x.float())
    clusters = kmeans(cells, 12)
    labels = clusters.labels(cells).long()
    for k in range(len(clusters)):
        assert float(clusters.n[k]) == int((labels == k).sum())
        assert float(clusters.centre[k]) == pytest.approx(float(x[labels == k].mean()), abs=1e-9)
    assert clusters.distortion(cells) == pytest.approx(float((x - clusters.centre[labels]).square().sum()), rel=1e-9)
    assert cells.variation == pytest.approx(float((x - x.mean()).square().sum()), rel=1e-12)
    share = torch.bincount(labels).double() / len(x)
    assert clusters.entropy_bits == pytest.approx(-float((share * share.log2()).sum()), rel=1e-12)


def test_every_point_is_in_the_cluster_of_its_nearest_centre_up_to_the_width_of_a_cell():
    x = sample("normal").double()
    cells = Cells.binned(x.float())
    clusters = kmeans(cells, 16)
    own = (x - clusters.centre[clusters.labels(cells).long()]).abs()
    nearest = (x[:, None] - clusters.centre).abs().amin(dim=1)
    assert float((own - nearest).max()) < 2e-3  # the boundary moves as long as the objective falls by 1e-5


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-30, 30), min_size=1, max_size=60),
    components=st.integers(1, 70),
    factor=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_any_points_give_nonempty_clusters_in_rising_order(values, components, factor):
    x = torch.tensor(values, dtype=torch.float32) * factor
    cells = Cells.binned(x)
    clusters = kmeans(cells, components)
    distinct = len(set(values))
    assert 1 <= len(clusters) <= components
    assert (components < distinct) or len(clusters) == distinct
    assert bool((clusters.n > 0).all())
    assert int(clusters.n.sum()) == len(values)
    assert clusters.centre.tolist() == sorted(set(clusters.centre.tolist()))
    order = x.argsort()
    assert bool((clusters.labels(cells).int()[order].diff() >= 0).all())


def test_as_many_components_as_points_reproduce_them():
    x = sample("normal", 50)
    cells = Cells.binned(x)
    clusters = kmeans(cells, 50)
    assert torch.equal(clusters.centre.float()[clusters.labels(cells).int()], x)
    assert clusters.distortion(cells) == pytest.approx(0, abs=1e-12)


def test_two_hundred_and_fifty_six_labels_fit_a_byte_and_one_more_does_not():
    cells = Cells.binned(sample("uniform"))
    assert kmeans(cells, 256).labels(cells).dtype == torch.uint8
    assert kmeans(cells, 257).labels(cells).dtype == torch.int32


def test_centres_start_at_the_quantiles_of_the_cube_root_of_the_density():
    # The density 2x on [0, 1]; its cube root has the distribution function x^(4/3).
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64).sqrt()
    wanted = ((torch.arange(16).double() + 0.5) / 16).pow(3 / 4)
    assert torch.allclose(companded(x, torch.ones_like(x), 16, 2 / 3), wanted, atol=1e-2)  # knots of 1/128 of the mass


def test_the_cost_of_a_merger_is_the_change_of_the_objective():
    one, other = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([4.0, 8.0])
    pooled = torch.cat([one, other])
    change = sum(float((p - p.mean()).square().sum()) * sign for p, sign in ((pooled, 1), (one, -1), (other, -1)))
    sides = [(torch.tensor(float(len(p))), p.mean()) for p in (one, other)]
    assert float(merger_cost(*sides)) == pytest.approx(change, rel=1e-6)


# ---- equal bytes ---------------------------------------------------------------------------------------------------


@given(limit=st.integers(0, 130), most=st.integers(1, 50))
def test_the_largest_within_a_limit_is_that_of_counting(limit, most):
    expected = max((k for k in range(1, most + 1) if 3 * k - 2 <= limit), default=0)
    assert largest(lambda k: 3 * k - 2, limit, most) == expected


@given(
    steps=st.lists(st.integers(-1, 12), min_size=1, max_size=60),
    noise=st.lists(st.integers(-3, 3), min_size=60, max_size=60),
    limit=st.integers(-5, 700),
)
def test_a_rough_forecast_and_a_size_that_is_not_monotone_still_end_at_a_filled_file(steps, noise, limit):
    sizes = [sum(steps[: k + 1]) for k in range(len(steps))]
    most = len(sizes)
    k = largest_within(limit, lambda k: sizes[k - 1], lambda k: 0.9 * sizes[k - 1] + noise[k - 1] + 40, most)
    if k == 0:
        assert sizes[0] > limit
    else:
        assert sizes[k - 1] <= limit
        assert k == most or sizes[k] > limit


def test_a_good_forecast_needs_few_true_sizes():
    asked = []

    def size(k: int) -> int:
        asked.append(k)
        return 1000 * k.bit_length() + 7 * k + 123

    k = largest_within(20_000, size, lambda k: 1000 * k.bit_length() + 7 * k, 65_535)
    assert size(k) <= 20_000 < size(k + 1)
    assert len(set(asked)) <= 4


# ---- the network ---------------------------------------------------------------------------------------------------


class Varied(nn.Module):
    """Convolution, norm, attention, embedding, a constant layer, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.position = nn.Embedding(16, 4)
        self.constant = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)
        self.again = nn.Linear(4, 3)
        self.again.weight = self.head.weight
        nn.init.zeros_(self.constant.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.conv(inputs)).flatten(2).permute(2, 0, 1) + self.position.weight[:, None]
        mixed = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        out: torch.Tensor = self.again(self.constant(mixed.mean(0)))
        return out


def varied(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Varied().eval()


METHOD = MapQuantised()


def fitted(folder: Path, net: nn.Module, needed: PointMass | None = None, val: int | None = 30, **given: object):
    ctx = context_of("map_quantised", folder, net)
    if needed is not None:
        ctx.needed = (*ctx.needed, NeededRun("other", {}, {}, needed))
    return METHOD.fit(problem_of(net, varied, val=val), ctx, METHOD.Config(**given))


def test_matrices_and_filters_are_in_scope_once_and_biases_norms_and_embeddings_are_not():
    assert layer_weights(varied()) == (
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "constant.weight",
        "head.weight",
    )


@pytest.mark.parametrize("components", [1, 7, 256])
def test_every_tensor_in_scope_takes_k_values_times_its_own_deviation_and_the_rest_stays(tmp_path, components):
    net = varied()
    posterior = fitted(tmp_path, net, components=components)
    values = set()
    for name, weight in weights_of(net).items():
        found = posterior.weights[name]
        if name in layer_weights(net) and name != "constant.weight":
            r = weight.double().std(correction=0).float()
            values |= set((found / r).double().round(decimals=5).flatten().tolist())
            assert found.unique().numel() <= components
        else:
            assert torch.equal(found, weight)
    assert len(values) <= min(components, posterior.facts()["weights"])
    assert posterior.facts()["components"] == min(components, len(Quantiser(net).cells))


def test_facts_are_those_of_the_decoded_weights(tmp_path):
    net = varied()
    posterior = fitted(tmp_path, net, components=5)
    names = [name for name in layer_weights(net) if name != "constant.weight"]
    w = torch.cat([(net.get_parameter(n) / net.get_parameter(n).std(correction=0)).flatten() for n in names]).double()
    q = torch.cat([(posterior.weights[n] / net.get_parameter(n).std(correction=0)).flatten() for n in names]).double()
    facts = posterior.facts()
    assert facts["weights"] == len(w)
    w, q = w.detach(), q.detach()
    rel_mse = float((w - q).square().sum() / (w - w.mean()).square().sum())
    assert facts["rel_mse"] == pytest.approx(rel_mse, rel=1e-4)  # float32 of the codebook
    problem = problem_of(net, varied)
    logits = torch.func.functional_call(net, dict(posterior.weights), (problem.val.inputs,))
    nll = float(nn.functional.cross_entropy(logits.double(), problem.val.labels))
    assert facts["val_nll"] == pytest.approx(nll, rel=1e-5)
    assert "val_nll" not in fitted(tmp_path / "no val", net, val=None, components=5).facts()


@pytest.mark.parametrize("components", [1, 16, 300])
def test_the_bytes_give_back_the_very_weights_and_the_very_bytes(tmp_path, components):
    posterior = fitted(tmp_path, varied(), components=components)
    out = BitWriter()
    posterior.encode(out)
    src = BitReader(out.finish())
    back = METHOD.posterior_type().decode(src, varied(1))
    src.finish()
    assert back.weights.keys() == posterior.weights.keys()
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in posterior.weights.items())
    again = BitWriter()
    back.encode(again)
    assert again.finish() == out.finish()


def test_bytes_of_another_architecture_are_refused(tmp_path):
    posterior = fitted(tmp_path, varied(), components=4)
    out = BitWriter()
    posterior.encode(out)
    other = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[1] * SHAPE[2], 3))
    with pytest.raises(CorruptBitstream, match="another architecture"):
        METHOD.posterior_type().decode(BitReader(out.finish()), other)


def wide(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 300), nn.ReLU(), nn.Linear(300, 3))


def test_the_file_fills_the_bytes_of_the_other_run_and_one_more_value_does_not_fit(tmp_path):
    net = wide()
    half = PointMass({"half": torch.zeros(3000)})  # a file of some 12 kB
    posterior = fitted(tmp_path, net, half, bytes_of={"method": "other"})
    facts = posterior.facts()
    assert facts["target_bytes"] == encoded_bytes(half)
    assert encoded_bytes(posterior) <= facts["target_bytes"]
    more = fitted(tmp_path / "more", net, components=facts["components"] + 1)
    assert more.facts()["components"] == facts["components"] + 1
    assert encoded_bytes(more) > facts["target_bytes"]


def test_a_file_too_small_for_a_single_value_is_an_error_with_both_sizes(tmp_path):
    tiny = PointMass({"w": torch.zeros(1)})
    with pytest.raises(ConfigError, match=rf"has {encoded_bytes(tiny)} bytes; that .* even with a single value"):
        fitted(tmp_path, wide(), tiny, bytes_of={"method": "other"})


def test_bytes_of_without_the_other_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"needs two runs.*got 1"):
        fitted(tmp_path, wide(), bytes_of={"method": "other"})


def test_a_network_without_matrices_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no weight of a convolutional, linear or attention layer"):
        Quantiser(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36)))


def test_a_weight_that_is_not_finite_is_named():
    net = wide()
    with torch.no_grad():
        net[3].weight[0, 0] = torch.nan
    with pytest.raises(Diverged, match=r"'3\.weight' is nan"):
        Quantiser(net)


# ---- settings and a whole study ------------------------------------------------------------------------------------


def test_components_or_bytes_of_but_not_both_and_not_neither():
    assert METHOD.Config().components == 256
    matched = METHOD.Config(bytes_of={"method": "mean_field"})
    assert matched.components is None
    assert METHOD.Config(**matched.identity()) == matched
    assert METHOD.Config().identity() == METHOD.Config(components=256).identity()
    for given_ in ({"components": 16, "bytes_of": {"method": "mean_field"}}, {"components": None}):
        with pytest.raises(ValidationError, match="give exactly one of the two"):
            METHOD.Config(**given_)
    with pytest.raises(ValidationError, match="65535"):
        METHOD.Config(components=65_536)


def test_it_needs_the_base_run_first_and_then_the_run_to_match():
    assert [need.method for need in METHOD.needs(METHOD.Config())] == ["map"]
    base, other = METHOD.needs(METHOD.Config(bytes_of={"method": "mean_field", "settings": {"epochs": 2}}))
    assert base.method == "map"
    assert (other.method, other.config) == ("mean_field", {"epochs": 2})


@pytest.fixture(scope="module")
def study_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised")
    item = "map_quantised: {bytes_of: {method: mean_field, settings: {epochs: 2}}}"
    flags = ["--task", "digits", "--network", "mlp-32", "--method", item, "--draws", "2", "--budget", "0.05"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        with pytest.raises(SystemExit) as ended:
            main(["run", *flags, "--results", str(folder), "--launcher", "inline"])
    assert ended.value.code in (0, None)
    store = Store(folder)
    return {store.folder(run).spec().method.name: store.folder(run) for run in store.ids()}


def test_a_study_runs_the_match_and_counts_the_same_bytes(study_runs):
    assert study_runs.keys() == {"map", "mean_field", "map_quantised"}
    mine, theirs = (study_runs[name].result() for name in ("map_quantised", "mean_field"))
    assert mine["facts"]["target_bytes"] == theirs["posterior"]["bytes"]
    assert 0 <= theirs["posterior"]["bytes"] - mine["posterior"]["bytes"] <= 64  # less than one more value takes
    assert mine["posterior"]["lossless"]
    assert mine["posterior"]["codec"] == "kmeans"
    assert json.loads((study_runs["map_quantised"].path / "spec.json").read_text())["given"]["bytes_of"]

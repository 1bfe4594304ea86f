"""Fixed weights as a distribution and as bytes: exact, of the size that the entropy says, refused where forged."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from fixing_fits import decoded
from hypothesis import given
from hypothesis import strategies as st
from small_problems import bytes_of
from small_problems import small_with_token as network
from torch import Tensor, nn

from benchmark import BitReader, BitWriter, CorruptBitstream, copy_of, weights_of
from methods.fixed_weights import codebook
from methods.fixed_weights.codebook import Codebook, value_counts
from methods.fixed_weights.encoding import Stored
from methods.fixed_weights.fixing import Fixing
from methods.fixed_weights.posterior import FixedPosterior
from methods.fixed_weights.report import entropy_bits, huffman_bits, value_facts
from methods.fixed_weights.scope import scope_of
from methods.probabilistic_weight_fixing.pool import pool_sigma

ORACLES = Path(__file__).parents[1] / "probabilistic_weight_fixing" / "oracles.json"


def weights_fixed(n: int, *, spread: float = 9.0, free: int = 0, seed: int = 0) -> Fixing:
    """n weights, all but the first `free` fixed, whose sigma is one of three."""
    g = torch.Generator().manual_seed(seed)
    code = (torch.randn(n, generator=g) * spread).round().to(torch.int16)
    sigma = torch.tensor([0.0, 0.001, 0.02])[torch.randint(3, (n,), generator=g)]
    weights = Fixing(code.float() / 128, sigma, torch.ones(n, dtype=torch.bool), code, 7)
    weights.fixed[:free] = False
    weights.mu[:free] += 0.001
    return weights


def posterior_of(net: nn.Module, predict: str = "draws", *, free: int = 0, pool: bool = False) -> FixedPosterior:
    chosen = scope_of(net, "weights_and_biases").bayesian
    shapes = {name: net.get_parameter(name).shape for name in chosen}
    weights = weights_fixed(sum(shape.numel() for shape in shapes.values()), free=free)
    if pool:
        pool_sigma(weights)
    rest = {name: tensor.clone() for name, tensor in weights_of(net).items() if name not in shapes}
    return FixedPosterior(Stored.of(shapes, weights, predict), rest, {"weights": len(weights)})


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def draws_of(posterior: FixedPosterior, n: int) -> list[dict[str, Tensor]]:
    return [copy_of(weights) for weights in posterior.draws(n, seeded())]


CASES = [(predict, free, pool) for predict in ("mean", "draws") for free in (0, 5) for pool in (False, True)]


@pytest.mark.parametrize(("predict", "free", "pool"), CASES)
def test_the_decoded_posterior_is_the_encoded_one_bit_by_bit(predict, free, pool):
    net = network()
    posterior = posterior_of(net, predict, free=free, pool=pool)
    data = bytes_of(posterior)
    src = BitReader(data)
    again = FixedPosterior.decode(src, network(1))
    src.finish()
    assert bytes_of(again) == data
    assert again.support == posterior.support == (1 if predict == "mean" else None)
    for ours, theirs in zip(
        [posterior.mean(), *draws_of(posterior, 2)], [again.mean(), *draws_of(again, 2)], strict=True
    ):
        assert ours.keys() == theirs.keys() == weights_of(net).keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_means_are_the_weights_exact_multiples_of_the_grid():
    posterior = posterior_of(network(), free=5)
    flat = torch.cat([posterior.mean()[name].flatten() for name in posterior._stored.shapes])
    weights = weights_fixed(len(flat), free=5)
    assert torch.equal(flat, weights.mu)
    assert torch.equal(flat[5:] * 128, weights.code[5:].float())


def test_draws_scatter_about_the_mean_by_sigma_and_leave_the_rest_alone():
    net = network()
    posterior = posterior_of(net)
    shapes = posterior._stored.shapes
    stack = torch.stack([torch.cat([w[name].flatten() for name in shapes]) for w in draws_of(posterior, 400)])
    weights = weights_fixed(stack.shape[1])
    assert torch.allclose(stack.std(0), weights.sigma, rtol=0.2)  # 400 draws: 3.5 % per weight
    assert ((stack.mean(0) - weights.mu).abs() <= 5 * weights.sigma / 20).all()
    assert torch.equal(stack[0][weights.sigma == 0], weights.mu[weights.sigma == 0])
    draw = draws_of(posterior, 1)[0]
    assert all(torch.equal(draw[name], net.state_dict()[name]) for name in weights_of(net) if name not in shapes)


def test_five_draws_begin_twenty_and_no_two_are_equal():
    posterior = posterior_of(network())
    five, twenty = draws_of(posterior, 5), draws_of(posterior, 20)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(five, twenty, strict=False) for name in a)
    assert len({float(weights["conv.weight"].sum()) for weights in twenty}) == 20


def test_predicting_with_the_mean_stores_no_sigma_and_every_draw_is_the_mean():
    posterior = posterior_of(network(), "mean", free=3)
    assert not [name for name in BitReader(bytes_of(posterior)).sections() if "sigma" in name]
    assert posterior.support == 1
    mean = posterior.mean()
    assert all(torch.equal(weights[name], mean[name]) for weights in draws_of(posterior, 3) for name in mean)


def test_negative_deviations_of_free_weights_count_as_none():
    weights = weights_fixed(50, free=4)
    weights.sigma[:4] = -0.5
    stored = Stored.of({"w": torch.Size([50])}, weights, "draws")
    assert stored.free_sigma.tolist() == [0.0] * 4


@given(
    codes=st.lists(st.integers(-300, 300), min_size=1, max_size=60),
    free=st.lists(st.booleans(), min_size=60, max_size=60),
    sigmas=st.lists(st.sampled_from([0.0, 1e-9, 0.5]), min_size=60, max_size=60),
)
def test_every_label_says_the_weight_s_own_value_and_sigma(codes, free, sigmas):
    n = len(codes)
    code, sigma = torch.tensor(codes, dtype=torch.int16), torch.tensor(sigmas[:n])
    fixed = ~torch.tensor(free[:n])
    weights = Fixing(code.float() / 128, sigma, fixed, code, 7)
    for book in (Codebook.of_values(weights), Codebook.of_pairs(weights)):
        own = book.labels[fixed].long()
        assert torch.equal(book.codes[own], code[fixed])
        assert (book.labels[~fixed] == len(book)).all()
        assert (book.counts()[:-1] > 0).all()
        sigmas_of_book = [0.0] * len(book) if book.sigma is None else book.sigma.tolist()
        pairs = list(zip(book.codes.tolist(), sigmas_of_book, strict=True))
        assert pairs == sorted(set(pairs))
        if book.sigma is not None:
            assert torch.equal(book.sigma[own], sigma[fixed])
    values, counts = value_counts(weights)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == Counter(code[fixed].tolist())


def test_pooling_gives_each_value_the_root_mean_square_of_its_members():
    code = torch.tensor([3, 3, 3, -1, -1, 7], dtype=torch.int16)
    sigma = torch.tensor([0.3, -5.0, 0.4, 0.1, 0.1, -2.0])
    weights = Fixing(code.float() / 128, sigma, torch.tensor([True] * 5 + [False]), code, 7)
    pool_sigma(weights)
    pooled = math.sqrt((0.3**2 + 0.4**2) / 3)
    assert weights.sigma.tolist() == pytest.approx([pooled] * 3 + [0.1, 0.1, -2.0], rel=1e-6)


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "n"), [(0.4, 300_000), (9.0, 300_000), (30.0, 100_000)])
def test_labels_take_their_entropy_and_a_fiftieth_of_a_bit(spread, n):
    weights = weights_fixed(n, spread=spread)
    stored = Stored.of({"w": torch.Size([n])}, weights, "mean")
    out = BitWriter()
    FixedPosterior(stored, {}).encode(out)
    h = entropy_bits(stored.book.counts())
    assert 8 * len(out.finish()) <= n * h + 0.02 * n + 8 * 1024


def test_entropies_and_code_lengths_are_those_of_the_oracle():
    cases = json.loads(ORACLES.read_text())["cases"]
    (case,) = (case for case in cases if case["kind"] == "compression")
    inputs, expected = case["inputs"], case["expected"]
    found = value_facts(torch.tensor(inputs["value_code"]), torch.tensor(inputs["count"]), inputs["n_unquantised"])
    names = ["unique", "unique_nonzero", "zero_fraction", "entropy_bits", "entropy_nats", "entropy_bits_nonzero"]
    for name in names:
        assert found[name] == pytest.approx(expected[name], rel=1e-9), name
    assert found["bits_fixed"] == expected["fixed_index_bits"]
    assert found["bits_ideal"] == pytest.approx(expected["ideal_bits"], rel=1e-9)
    assert huffman_bits(inputs["count"]) == expected["huffman_payload_bits"]
    plain = 24 * expected["unique"] + 32 * inputs["n_unquantised"]
    assert found["bits_huffman"] == expected["huffman_payload_bits"] + plain


def test_free_weights_are_a_symbol_of_their_own_and_32_bits_each():
    found = value_facts(torch.tensor([0, 5]), torch.tensor([4, 2, 2]), 10)
    assert found["unique"] == 2
    assert found["zero_fraction"] == 0.5
    assert found["entropy_bits"] == pytest.approx(1.5)
    assert found["bits_ideal"] == pytest.approx(8 * 1.5 + 2 * 32 + 12 * 32)
    assert found["bits_fixed"] == 8 * 2 + 2 * 32 + 12 * 32


@given(counts=st.lists(st.integers(1, 10_000), min_size=2, max_size=200))
def test_the_mean_huffman_length_is_within_a_bit_of_the_entropy(counts):
    mean, h = huffman_bits(counts) / sum(counts), entropy_bits(torch.tensor(counts))
    assert h - 1e-9 <= mean < h + 1


def test_a_single_symbol_has_no_entropy_and_takes_a_bit_in_a_huffman_code():
    assert entropy_bits(torch.tensor([7])) == 0
    assert huffman_bits([7]) == 7


# ---- forgeries -----------------------------------------------------------------------------------------------------


class Forged(BitWriter):
    """Writes something else in place of one section."""

    def __init__(self, section: str, value: object) -> None:
        super().__init__()
        self._section, self._value, self.used = section, value, False

    def _add(self, name, kind, payload) -> None:
        if name == self._section and not self.used:
            self.used, made = True, BitWriter()
            write = made.json if name == "settings" else made.indices
            if isinstance(self._value, Tensor) and self._value.is_floating_point():
                write = made.tensor
            write(name, self._value)
            kind, payload = made._sections[name].kind, made._sections[name].payload
        super()._add(name, kind, payload)


LABELS = posterior_of(network(), free=2)._stored.book.labels
ENTRIES = len(posterior_of(network(), free=2)._stored.book)
FORGERIES = [
    ("labels", torch.full_like(LABELS, ENTRIES + 1), f"labels from {ENTRIES + 1} to"),
    ("labels", LABELS.long(), "int64 labels from"),
    ("labels", -LABELS.to(torch.int8), "int8 labels from"),
    ("labels", LABELS[1:], "another architecture"),
    ("labels", torch.full_like(LABELS, ENTRIES), r"section 'free.mu' has shape \(2,\), the labels ask for \(107,\)"),
    ("codes", torch.zeros(3, dtype=torch.int16), "with 3 values the legal ones are"),
    ("codes", torch.zeros(ENTRIES, dtype=torch.uint8), "legal: .K,. int16 or int32"),
    ("sigma", torch.zeros(ENTRIES - 1), "section 'sigma' has shape"),
    ("sigma", torch.full((ENTRIES,), -1.0), "negative or not finite"),
    ("sigma", torch.full((ENTRIES,), torch.inf), "negative or not finite"),
    ("free.mu", torch.tensor([0.0, torch.nan]), "'free.mu' holds numbers that are not finite"),
    ("free.sigma", torch.zeros(3), r"'free.sigma' has shape \(3,\)"),
    ("settings", {"b": 7}, "settings are not b, predict"),
    ("settings", {"b": 16, "predict": "draws"}, "b is 16; legal: 1, 2,"),
    ("settings", {"b": True, "predict": "draws"}, "b is True"),
    ("settings", {"b": 7, "predict": "both"}, "predict is 'both'; legal: 'mean', 'draws'"),
]


@pytest.mark.parametrize(
    ("section", "value", "message"), FORGERIES, ids=[f"{i}-{f[0]}" for i, f in enumerate(FORGERIES)]
)
def test_forged_sections_are_refused(section, value, message):
    net, out = network(), Forged(section, value)
    posterior_of(net, free=2).encode(out)
    assert out.used
    with pytest.raises(CorruptBitstream, match=message):
        FixedPosterior.decode(BitReader(out.finish()), net)


def test_bytes_of_another_architecture_are_refused():
    data = bytes_of(posterior_of(network()))
    for other in (nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))):
        with pytest.raises(CorruptBitstream, match="another architecture"):
            decoded(data, other)


def test_a_rest_that_misses_a_buffer_is_refused():
    posterior = posterior_of(network())
    del posterior._rest["norm.running_var"]
    with pytest.raises(CorruptBitstream, match="miss a buffer"):
        decoded(bytes_of(posterior), network())


def test_facts_are_those_of_the_fit_and_are_not_in_the_bytes():
    posterior = posterior_of(network())
    assert posterior.facts() == {"weights": 107}
    assert decoded(bytes_of(posterior), network()).facts() == {}


def test_codes_from_one_end_of_sixteen_bits_to_the_other_keep_their_labels():
    codes = torch.tensor([-24576, 24576, 16384, -32768, 32767], dtype=torch.int16)
    weights = Fixing.of(codes.float() * 2.0**-15, torch.zeros(5), 15)
    weights.code.copy_(codes)
    weights.fixed.fill_(True)
    book = Codebook.of_values(weights)
    assert torch.equal(book.codes[book.labels.long()], codes)


@pytest.mark.parametrize("free", [0, 7])
def test_codes_far_apart_have_the_labels_that_a_table_would_give(free, monkeypatch):
    weights = weights_fixed(500, spread=300.0, free=free)
    expected, counts = Codebook.of_values(weights), value_counts(weights)
    monkeypatch.setattr(codebook, "_tabled", lambda weights, span: False)
    found, counted = Codebook.of_values(weights), value_counts(weights)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.labels, expected.labels)
    assert found.labels.dtype == expected.labels.dtype
    assert all(torch.equal(a, b) for a, b in zip(counted, counts, strict=True))


def test_points_have_no_deviations_to_store():
    weights = Fixing.of(torch.zeros(3), None, 7)
    assert Stored.of({"w": torch.Size([3])}, weights, "mean").sigma() is None
    with pytest.raises(ValueError, match="points, without sigma"):
        Stored.of({"w": torch.Size([3])}, weights, "draws")

"""What a run costs: multiply-accumulates by hand, memory of the right process, latency of whole predictions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmark.cost import latency, macs_per_forward, peak_memory
from benchmark.posteriors import PointMass, WeightSamples
from benchmark.weights import weights_of


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


class Attention(nn.Module):
    """Self-attention over 4 tokens of width 12 with 3 heads, as torch's module or by the fused function."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = inputs.flatten(2).transpose(1, 2)  # (n, 4, 12)
        if not self.fused:
            return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)
        heads = tokens.unflatten(-1, (3, 4)).transpose(1, 2)  # (n, 3, 4, 4)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads).flatten(1)


def test_the_hand_case_of_a_convolution_and_a_linear_layer():
    # 8 * 8 pixels * 8 filters * 27 inputs = 13,824; 512 * 10 = 5,120
    assert macs_per_forward(conv_net(), torch.zeros(3, 8, 8)) == 13_824 + 5_120 == 18_944


def test_attention_is_counted_in_both_forms():
    products = 3 * 2 * 4 * 4 * 4  # heads x (scores, mixing) x queries x keys x width of a head
    assert macs_per_forward(Attention(fused=True), torch.zeros(12, 2, 2)) == products
    projections = 4 * 4 * 12 * 12  # (query, key, value, output) x tokens x width x width
    assert macs_per_forward(Attention(fused=False), torch.zeros(12, 2, 2)) == products + projections


def test_counting_leaves_modes_and_fast_path_as_they_were():
    net = conv_net().train()
    net[1].eval()
    mean = net[1].running_mean.clone()
    fast = torch.backends.mha.get_fastpath_enabled()
    macs_per_forward(net, torch.ones(3, 8, 8))
    assert [module.training for module in net] == [True, False, True, True, True]
    assert torch.equal(net[1].running_mean, mean)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    with pytest.raises(RuntimeError):
        macs_per_forward(net, torch.ones(4, 8, 8))
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_peak_memory_is_that_of_the_process_itself_and_not_of_its_parent():
    ballast = bytearray(300 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        child_peak = peak_memory(child.pid)
        child.communicate(b"\n")
    own = peak_memory()
    assert own is not None
    assert child_peak is not None
    assert own > 300 * 2**20
    assert child_peak < 100 * 2**20
    del ballast
    assert (peak_memory() or 0) > own - 300 * 2**20 / 2  # a peak does not sink; the kernel counts in batches of pages


def test_the_memory_of_no_process_is_unknown():
    assert peak_memory(2**22 + 1) is None


def test_latency_times_the_whole_prediction_at_two_batch_sizes():
    net = conv_net().train()
    members = WeightSamples([weights_of(conv_net()) for _ in range(2)])
    found = latency(net, members, torch.randn(3, 3, 8, 8), 20, torch.Generator(), brief=True)
    assert (found["draws"], found["dtype"], found["torch"]) == (2, "float32", torch.__version__)
    assert found["device"]
    for size in (1, 256):
        timing = found[f"batch_{size}"]
        assert 0 < timing["q25_ms"] <= timing["median_ms"] <= timing["q75_ms"]
        assert 3 <= timing["calls"] <= 50
    assert found["batch_256"]["median_ms"] > found["batch_1"]["median_ms"]
    assert net.training


def test_every_timed_call_draws_anew():
    class Counting(PointMass):
        made = 0

        def draws(self, n, generator):
            Counting.made += n
            return super().draws(n, generator)

    net = conv_net()
    found = latency(net, Counting(weights_of(net)), torch.randn(1, 3, 8, 8), 5, torch.Generator(), brief=False)
    calls = [found[f"batch_{size}"]["calls"] for size in (1, 256)]
    assert calls == [50, 50]
    assert Counting.made == 2 * (10 + 50)  # warm-up and timed calls, one draw each

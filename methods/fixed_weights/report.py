"""What a fit reports about its values: entropies, code lengths, and a record per tensor."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from benchmark import Fact
from methods.fixed_weights.codebook import Codebook
from methods.fixed_weights.picks import Pick
from methods.fixed_weights.record import Record, Round
from methods.fixed_weights.state import FixingState


def value_facts(codes: Tensor, counts: Tensor, rest: int) -> dict[str, Fact]:
    """Entropies and estimated code lengths in bits of N weights on K values; not the size of the file.

    codes: (K,) integers. counts: (K,) or (K + 1,) int64, the last of weights that are free: a symbol of their own, and
    32 bits each. rest: parameters that are never fixed, N_u, 32 bits each.

    unique, unique_nonzero: values. zero_fraction. entropy_bits: H = -sum p log2 p, zeros and the free symbol included;
    entropy_bits_nonzero: without the value 0, renormalised; entropy_nats: H ln 2. bits_fixed: N ceil(log2 K) + 32 K +
    32 N_u; bits_ideal: N H + 32 K + 32 N_u; bits_huffman: that of a Huffman code with 8 K bits of lengths and 16 K of
    values.
    """
    n, unique = int(counts.sum()), len(codes)
    free = int(counts[unique:].sum())
    symbols = int(counts.count_nonzero())
    used, zero = counts[counts > 0], codes == 0
    nonzero = torch.cat([counts[:unique][~zero], counts[unique:]])
    entropy, plain = entropy_bits(counts), 32 * (rest + free)
    return {
        "unique": unique,
        "unique_nonzero": unique - int(zero.sum()),
        "zero_fraction": int(counts[:unique][zero].sum()) / n,
        "entropy_bits": entropy,
        "entropy_bits_nonzero": entropy_bits(nonzero),
        "entropy_nats": entropy * math.log(2),
        "bits_fixed": n * (symbols - 1).bit_length() + 32 * unique + plain,
        "bits_ideal": n * entropy + 32 * unique + plain,
        "bits_huffman": huffman_bits(used.tolist()) + 24 * unique + plain,
    }


def entropy_bits(counts: Tensor) -> float:
    """Entropy in bits of symbols with these counts (M,), zeros among them; 0 of none."""
    p = counts[counts > 0].double() / max(1, int(counts.sum()))
    return -float(torch.xlogy(p, p).sum()) / math.log(2) + 0.0


def huffman_bits(counts: Sequence[int]) -> int:
    """Length in bits of symbols with these counts > 0 under a Huffman code; a single symbol takes a bit."""
    heap, total = list(counts), 0
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged  # every symbol below gets one bit longer
        heapq.heappush(heap, merged)
    return total


def round_facts(rounds: Sequence[Round]) -> dict[str, Fact]:
    """picks, phases, seconds_cluster: of all rounds."""
    return {
        "picks": sum(len(one.picks) for one in rounds),
        "phases": sum(one.phases for one in rounds),
        "seconds_cluster": sum(one.seconds for one in rounds),
    }


def size_facts(state: FixingState) -> dict[str, int]:
    """weights: what can be fixed. rest: other parameters. buffers: running statistics, integer counters left out."""
    points = state.points
    return {
        "weights": len(state),
        "rest": sum(tensor.numel() for group in (points.trained, points.fixed) for tensor in group.values()),
        "buffers": sum(tensor.numel() for tensor in points.buffers.values() if tensor.is_floating_point()),
    }


def omega_counts(pick_of: Tensor, picks: Sequence[Pick], sizes: Sequence[int]) -> dict[int, list[int]]:
    """omega -> weights of every tensor that were fixed with it. pick_of: (N,) int32, position in picks or -1."""
    omegas = sorted({pick.omega for pick in picks})
    place = {omega: position for position, omega in enumerate(omegas)}
    table = torch.tensor([*(place[pick.omega] for pick in picks), len(omegas)], device=pick_of.device)  # -1: the last
    pieces = [torch.bincount(table[piece.long()], minlength=len(omegas) + 1) for piece in pick_of.split(list(sizes))]
    columns = torch.stack(pieces).T.tolist()
    return dict(zip(omegas, columns, strict=False))


def layer_records(
    state: FixingState, book: Codebook, base: Mapping[str, Tensor], record: Record
) -> Iterator[dict[str, float | int | str]]:
    """For the history, one per tensor.

    entropy_bits: H_l of its own labels. cross_bits: mean length of its labels under the code of the whole network.
    rms_change, relative_rms_change: of final - base, and over the root mean square of the base. mean_sigma: not of
    points. fixed_by_round, fixed_by_omega: weights fixed. book: values without sigma, of `state`.
    """
    total = book.counts().double()
    length = (total / total.sum()).log2_().neg_()
    sigma = {} if state.weights.sigma is None else state.split(state.weights.sigma)
    for position, (name, labels) in enumerate(state.split(book.labels).items()):
        mu = state.mu.views[name]
        counts = torch.bincount(labels, minlength=len(book) + 1)
        p = counts.double() / len(labels)
        change = _rms(mu.double() - base[name].double())
        zeros = int(counts[:-1][book.codes == 0].sum())
        of_sigma = {"mean_sigma": float(sigma[name].mean(dtype=torch.float64))} if name in sigma else {}
        yield {
            "event": "layer",
            "name": name,
            "shape": "x".join(map(str, mu.shape)),
            "n": len(labels),
            "unique": int(counts[:-1].count_nonzero()),
            "zero_fraction": zeros / len(labels),
            "entropy_bits": entropy_bits(counts),
            "cross_bits": float((p * length)[counts > 0].sum()),
            "rms_change": change,
            "relative_rms_change": change / max(_rms(base[name].double()), 1e-30),
            **of_sigma,
            "fixed_by_round": " ".join(str(counts[position]) for counts in record.by_round),
            "fixed_by_omega": " ".join(f"{w}:{counts[position]}" for w, counts in sorted(record.by_omega.items())),
        }


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())

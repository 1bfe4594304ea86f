"""Barriers between samples: high between permuted copies, gone when they are matched."""

from __future__ import annotations

import pytest
from experiment_cases import chains_of, digits_like, material_of, numbers, permuted_copies, with_norms

from methods.hmc_rebasin.lines import barriers, far_pairs
from methods.symmetry.barrier import barrier


def test_matching_takes_the_barrier_between_permuted_copies_away(tmp_path):
    problem = digits_like()
    _, copies = permuted_copies(problem, 12)
    facts = barriers(material_of(tmp_path, problem, chains_of(problem, copies, 2)))
    assert facts["barrier_raw"] > 0.3
    assert facts["barrier_matched"] < 0.01
    assert facts["error_barrier_raw"] > 0.1 > facts["error_barrier_matched"]
    rows = numbers(tmp_path, "barriers")
    assert len(rows) == 4 * 2 * 25
    assert {(row["chain_a"], row["chain_b"]) for row in rows} == {("0", "0"), ("1", "1"), ("0", "1")}
    ends = [float(row["loss_excess"]) for row in rows if row["t"] in "01"]
    assert ends == pytest.approx([0.0] * 16, abs=1e-12)


def test_matched_lines_of_networks_with_running_statistics_stay_low(tmp_path):
    problem = with_norms()
    _, copies = permuted_copies(problem, 4, noise=0.0)
    material = material_of(tmp_path, problem, chains_of(problem, copies))
    facts = barriers(material)
    rows = numbers(tmp_path, "barriers")
    assert len(rows) == 2 * 2 * 11
    raw, matched = ([float(row["loss"]) for row in rows if row["side"] == side] for side in ("raw", "matched"))
    assert max(matched) - min(matched) < 1e-3
    assert max(raw) - min(raw) > 0.1
    assert facts["barrier_matched"] < 1e-3
    seed, train = material.ctx.seed_for("barriers"), problem.train
    ends = [material.run.weights(0, index) for index in (0, 2)]
    anew = barrier(problem.network, *ends, problem.val, 11, reset=train, seed=seed).loss
    assert raw[:11] == pytest.approx(anew, rel=1e-6)


@pytest.mark.parametrize(
    ("chains", "per_chain", "expected"),
    [
        (1, 2, [((0, 0), (0, 1))]),
        (2, 1, [((0, 0), (1, 0))]),
        (1, 6, [((0, 0), (0, 3)), ((0, 1), (0, 4)), ((0, 2), (0, 5))]),
    ],
)
def test_pairs_are_far_apart_and_exist_for_two_samples(tmp_path, chains, per_chain, expected):
    problem = digits_like()
    _, copies = permuted_copies(problem, chains * per_chain)
    assert far_pairs(material_of(tmp_path, problem, chains_of(problem, copies, chains))) == expected

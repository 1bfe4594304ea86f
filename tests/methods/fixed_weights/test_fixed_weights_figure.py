"""The picture of a fit: what is in it, its size, and that equal input gives equal text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmark.figures import MOST_BYTES
from methods.fixed_weights.codebook import Codebook
from methods.fixed_weights.figure import fixing_figure
from methods.fixed_weights.picks import Pick
from methods.fixed_weights.record import Round
from methods.map.evaluation import Evaluation

ROUNDS = tuple(
    Round(
        p=p,
        left=50,
        picks=(Pick(0, 40, 1, 1.0), Pick(3, 10, 2, 1.0)),
        phases=2,
        seconds=0.1,
        fixed=int(100 * p),
        entropy_bits=entropy,
        median_sigma=None,
        negative_sigma=0.0,
        before=Evaluation(0.3, 0.9),
        after=Evaluation(0.4, 0.8),
    )
    for p, entropy in ((0.5, 1.25), (1.0, 2.75))
)


def book_of(values: int, n: int) -> Codebook:
    codes = torch.arange(values, dtype=torch.int32) - values // 2
    return Codebook(codes, None, torch.arange(n, dtype=torch.int32) % values)


def test_it_shows_rounds_entropies_accuracies_and_values():
    text = fixing_figure(ROUNDS, book_of(9, 100), 7)
    shown = ["0.5", "1.2", "2.8", "accuracy before clustering", "a multiple of 1/128", "(9 values)", "value 0"]
    assert [words for words in shown if f">{words}" not in text and words not in text] == []


def test_without_validation_data_there_is_no_accuracy():
    rounds = [replace(one, before=None, after=None) for one in ROUNDS]
    assert "accuracy" not in fixing_figure(rounds, book_of(9, 100), 7)


def test_equal_input_gives_equal_text():
    assert fixing_figure(ROUNDS, book_of(9, 100), 7) == fixing_figure(ROUNDS, book_of(9, 100), 7)


@pytest.mark.parametrize("values", [1, 1_000, 5_000])
def test_any_number_of_values_makes_a_file_of_legal_size(values):
    assert len(fixing_figure(ROUNDS, book_of(values, 60_000), 15)) < MOST_BYTES / 4

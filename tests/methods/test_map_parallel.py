"""One training on several devices: the numbers of one device, and the same on all of them."""

from __future__ import annotations

import pytest
import torch
from map_cases import context, convolutional, perceptron, problem
from teams import in_team
from torch import nn

from benchmark import ConfigError, Split
from benchmark.errors import Interrupted
from benchmark.team import Team
from methods.map import Map
from methods.map.parallel import Parallel

PARTS = {"epochs": 2, "batch_size": 14, "accumulate": 4, "optimiser": "sgd", "lr": 0.05}


def trained(folder, config, devices, build=perceptron, **changes):
    """Weights, facts and history of every member."""

    def body(team: Team):
        ctx = context(folder, team=team)
        fitted = Map().fit(problem(build, **changes), ctx, Map.Config(**config))
        ctx.close()
        return dict(fitted.weights), fitted.facts()

    found = in_team(folder / f"team{devices}", body, devices)
    return found, (folder / "history.jsonl").read_text()


def apart(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(
    "extra",
    [{}, {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "ema": 0.9}, {"optimiser": "adamw", "clip_norm": 0.1}],
    ids=["plain", "mixed", "adamw"],
)
def test_two_devices_give_the_weights_of_one(tmp_path, extra):
    # 40 augmented examples in batches of 14, 13 and 13, in parts of 4 and 3: the devices' shares differ in size.
    ((one, facts),), _ = trained(tmp_path / "one", {**PARTS, **extra}, 1)
    ((first, first_facts), (second, second_facts)), _ = trained(tmp_path / "two", {**PARTS, **extra}, 2)
    assert apart(one, first) < 1e-5
    assert apart(first, second) == 0
    assert first_facts == second_facts
    assert first_facts["val_nll"] == pytest.approx(facts["val_nll"], abs=1e-5)


def test_four_devices_give_the_weights_of_one(tmp_path):
    ((one, _),), _ = trained(tmp_path / "one", PARTS, 1)
    members, _ = trained(tmp_path / "four", PARTS, 4)
    assert max(apart(one, weights) for weights, _ in members) < 1e-5


def test_dropout_and_batch_norm_depend_on_the_part_and_not_on_its_device(tmp_path):
    ((one, _),), _ = trained(tmp_path / "one", PARTS, 1, convolutional)
    ((first, _), (second, _)), _ = trained(tmp_path / "two", PARTS, 2, convolutional)
    statistics = {name for name in one if "running" in name}
    assert len(statistics) == 2
    weights = [{name: value for name, value in each.items() if name not in statistics} for each in (one, first)]
    assert apart(*weights) < 1e-5
    assert apart(first, second) == 0
    # The statistics forget more slowly than those of one device, from the same start to the same batches.
    for name in statistics:
        start = torch.zeros(4) if "mean" in name else torch.ones(4)
        moved, whole = first[name] - start, one[name] - start
        assert 0 < float(moved.norm()) < float(whole.norm())
        assert float((moved @ whole) / (moved.norm() * whole.norm())) > 0.98


def test_one_member_writes_the_history_once(tmp_path):
    _, alone = trained(tmp_path / "one", PARTS, 1)
    _, team = trained(tmp_path / "two", PARTS, 2)
    assert len(team.splitlines()) == len(alone.splitlines()) == 2


def test_a_team_that_is_stopped_at_every_step_gives_the_same_bits(tmp_path):
    config = {**PARTS, "ema": 0.9}
    whole, _ = trained(tmp_path / "whole", config, 2, convolutional)

    def body(team: Team):
        stops = 0
        while True:
            first = team.rank == 0
            ctx = context(
                tmp_path / "pieces", team=team, checkpoint_seconds=0, stop_requested=lambda first=first: first
            )
            try:
                return dict(Map().fit(problem(convolutional), ctx, Map.Config(**config)).weights), stops
            except Interrupted:
                stops += 1
                team.require_same("the number of stops", str(stops))  # the first has saved
            finally:
                ctx.close()

    pieces = in_team(tmp_path / "members", body)
    assert [stops for _, stops in pieces] == [6, 6]
    assert apart(whole[0][0], pieces[0][0]) == apart(whole[0][0], pieces[1][0]) == 0


class _TeamOf(Team):
    """Says how many members it has, and cannot speak."""

    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize(("devices", "parts"), [(4, 2), (2, 1), (3, 4)])
def test_parts_that_cannot_be_dealt_out_are_refused(tmp_path, devices, parts):
    ctx = context(tmp_path, team=_TeamOf(devices))
    with pytest.raises(ConfigError, match=f"devices: {devices} needs 'accumulate' to be a multiple of {devices}"):
        Map().fit(problem(), ctx, Map.Config(**{**PARTS, "accumulate": parts}))


def test_batches_that_are_smaller_than_their_parts_are_refused(tmp_path):
    ctx = context(tmp_path, team=_TeamOf(2))
    with pytest.raises(ConfigError, match="the smallest has 3"):
        Map().fit(problem(n=3), ctx, Map.Config(**{**PARTS, "accumulate": 4}))


def test_a_network_whose_weights_take_turns_is_refused(tmp_path):
    class Deaf(_TeamOf):
        def add_up(self, tensors):
            pass

    net = nn.Linear(2, 2)
    data = Split(torch.zeros(40, 1, 1, 2), torch.zeros(40, dtype=torch.int64))
    parallel = Parallel(context(tmp_path, team=Deaf(2)), net, data, Map.Config(**PARTS))
    net(torch.ones(1, 2)).sum().backward()
    parallel.complete(torch.zeros(()), list(net.parameters()))
    net.bias.grad = None
    with pytest.raises(ConfigError, match="devices: 1"):
        parallel.complete(torch.zeros(()), list(net.parameters()))

"""The published recipes: rates by epoch, as the papers state them."""

from __future__ import annotations

import pytest

from methods.map.config import MapConfig
from methods.map.recipe import rate


def rates_of(preset: str, steps: int) -> list[float]:
    """Of every step, `steps` per epoch."""
    config = MapConfig(preset=preset)
    assert config.lr != "auto"
    return [rate(t, config.epochs * steps, config.lr, config) for t in range(config.epochs * steps)]


@pytest.mark.parametrize(
    ("preset", "epochs", "drops"),
    [
        ("wrn", 200, {60: 0.02, 120: 0.004, 160: 0.0008}),
        ("resnet_cifar", 200, {60: 0.02, 120: 0.004, 160: 0.0008}),
        ("resnet_imagenet", 90, {30: 0.01, 60: 0.001, 80: 0.0001}),
    ],
)
@pytest.mark.parametrize("steps", [1, 7, 391])
def test_steps_fall_at_the_start_of_the_named_epochs(preset, epochs, drops, steps):
    rates = rates_of(preset, steps)
    assert len(rates) == epochs * steps
    assert rates[0] == 0.1
    found = {t / steps: rates[t] for t in range(1, len(rates)) if rates[t] != rates[t - 1]}
    assert found == pytest.approx(drops)


def test_deit_warms_up_for_five_epochs_and_ends_at_a_rate_of_1e_5():
    steps = 10
    rates = rates_of("deit", steps)
    assert max(rates) == rates[5 * steps - 1] == rates[5 * steps] == 1e-3
    assert rates[:50] == sorted(rates[:50])
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5, rel=1e-2)
    config = MapConfig(preset="deit")
    assert config.lr == 5e-4 * config.batch_size / 512
    assert (config.epochs, config.mixup, config.cutmix, config.label_smoothing) == (300, 0.8, 1.0, 0.1)


def test_every_preset_names_its_optimiser_rate_and_decay():
    for preset in MapConfig.presets:
        config = MapConfig(preset=preset)
        assert "auto" not in (config.optimiser, config.lr, config.weight_decay), preset

"""How fast psi moves, step by step."""

from __future__ import annotations

from dataclasses import dataclass

from methods.finetuning.descent import Rate
from methods.mean_field.config import MeanFieldConfig
from methods.training import cosine

PEAK_CAP = 0.05
END_FRACTION = 0.1
MILESTONES = (0.25, 0.5, 0.75)
MOMENTUM = 0.9
RAMP_START = 0.01


@dataclass(frozen=True)
class Travel:
    """The schedule of Adam on psi: rate(t) = peak (0.1 + 0.9 (1 + cos(pi t/T)) / 2), t = 0 .. T-1.

    Adam moves a parameter by about its rate per step whatever the gradient's scale; the rates sum to `nats`, unless
    the cap of 0.05 on the peak makes the way shorter.
    """

    nats: float
    steps: int

    @property
    def peak(self) -> float:
        """min(0.05, nats / sum_t shape_t)."""
        return min(PEAK_CAP, self.nats / sum(self._shape(t) for t in range(self.steps)))

    def rates(self) -> Rate:
        """t -> learning rate."""
        peak = self.peak
        return lambda t: peak * self._shape(t)

    def _shape(self, t: int) -> float:
        return cosine(t, self.steps, 1.0, END_FRACTION)


def log_sd_rates(config: MeanFieldConfig, steps: int) -> Rate | None:
    """The learning rate of psi by step, for `steps` of them; None where psi stays where it starts."""
    if config.lr_psi is None:
        return Travel(config.travel, steps).rates() if config.travel else None
    peak, factor = config.lr_psi, config.factor_psi
    if config.schedule_psi == "steps":
        return lambda t: peak * factor ** sum(t >= milestone * steps for milestone in MILESTONES)
    if config.schedule_psi == "cosine":
        return lambda t: cosine(t, steps, peak, END_FRACTION * peak)
    return lambda t: peak


def ramp(share: float, steps: int) -> Rate:
    """t -> factor on the KL term: linear from 0.01 to 1 over the first `share` of the steps, then 1."""
    rising = share * steps

    def factor(t: int) -> float:
        return 1.0 if t >= rising else RAMP_START + (1 - RAMP_START) * t / rising

    return factor


def travel_bound(config: MeanFieldConfig, rate: Rate | None, steps: int, n_data: int) -> float:
    """How far psi can move outwards in nats: with Adam the sum of the rates, with SGD what the constant push 1/N of the
    KL term can do, sum_t lr_t / ((1 - momentum) N)."""
    if rate is None:
        return 0.0
    total = sum(map(rate, range(steps)))
    return total if config.optim_psi == "adam" else total / ((1 - MOMENTUM) * n_data)

"""The same target by Pyro's kernels: a second opinion for tiny problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmark import ConfigError
from methods.hmc.config import SamplingConfig
from methods.hmc.density import Target

MOST_PARAMETERS = 5_000
SITE = "w"


def pyro_states(
    target: Target,
    initial: Tensor,
    config: SamplingConfig,
    *,
    scale: float,
    seeds: Sequence[int],
    finished: Mapping[int, Tensor] | None = None,
    after_chain: Callable[[int, Tensor], None] = lambda chain, states: None,
) -> Tensor:
    """Kept states of every chain, (C, keep, P) float32 on the CPU, by `pyro.infer.mcmc` NUTS or HMC with unit masses.

    The chains run one after the other: Pyro has no vectorised chains. initial: (C, P), where they start. config:
    settled; `burn_in` + `discard` trajectories of warm-up adapt the step size unless it is given. scale: median
    standard deviation of the prior, for the length of trajectories of kernel hmc. seeds: of each chain. finished:
    chain -> its states (keep, P), which is not run again. after_chain(chain, states): called when one is finished.

    Torch's global generators and default dtype are left as they were.

    Raises:
        ConfigError: more than 5,000 parameters, and not `force`.
        ValueError: shapes do not fit, or `config` is not settled.
    """
    if target.parameters > MOST_PARAMETERS and not config.force:
        raise ConfigError(
            f"sampler 'pyro' is for tiny networks, at most {MOST_PARAMETERS:,} parameters; this one has "
            f"{target.parameters:,} and would take days. Set sampler: hmc, or force: true."
        )
    if initial.shape != (len(seeds), target.parameters):
        raise ValueError(
            f"{len(seeds)} seeds and {target.parameters} parameters need initial states of shape "
            f"({len(seeds)}, {target.parameters}); got {tuple(initial.shape)}"
        )
    chains: list[Tensor] = []
    for chain, seed in enumerate(seeds):
        states = None if finished is None else finished.get(chain)
        if states is None:
            with _global_state(seed, initial):
                states = _one_chain(target, initial[chain], config, scale)
            after_chain(chain, states)
        chains.append(states.cpu())
    return torch.stack(chains)


def _one_chain(target: Target, start: Tensor, config: SamplingConfig, scale: float) -> Tensor:
    """Kept states (keep, P) float32 on the CPU."""
    from pyro.infer.mcmc import MCMC

    if config.burn_in is None or config.samples is None or config.keep is None:
        raise ValueError("burn_in, samples and keep must be numbers; settle the settings first: settled()")
    run = MCMC(
        kernel(target, config, scale),
        num_samples=config.samples,
        warmup_steps=config.burn_in + config.discard,
        initial_params={SITE: start.detach().clone()},
        disable_progbar=True,
    )
    run.run()
    samples: Tensor = run.get_samples()[SITE]
    due = [index * config.samples // config.keep for index in range(config.keep)]
    return samples[due].float().cpu()


def kernel(target: Target, config: SamplingConfig, scale: float) -> Any:
    """Pyro's kernel on U = -log density over one flat site `w`, (P,)."""
    from pyro.infer.mcmc import HMC, NUTS

    adapts = config.step_size == "auto"
    common: dict[str, Any] = {
        "potential_fn": lambda values: _Potential.apply(values[SITE], target),
        "step_size": 1e-3 if adapts else config.step_size,
        "adapt_step_size": adapts,
        "adapt_mass_matrix": False,
        "target_accept_prob": config.target_accept,
    }
    if config.kernel == "nuts":
        return NUTS(**common)
    length = math.pi / 2 * scale if config.trajectory == "auto" else config.trajectory
    return HMC(**common, trajectory_length=length)


class _Potential(torch.autograd.Function):
    """U at one state (P,), as a scalar of its dtype whose gradient the target gives."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, target: Target) -> Tensor:
        gradient, log_likelihood, log_prior = target.gradient(state.detach()[None])
        ctx.save_for_backward(gradient[0])
        return (-(log_likelihood + log_prior)[0] / target.temperature).to(state.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return -outer[0] * gradient, None


@contextmanager
def _global_state(seed: int, states: Tensor) -> Iterator[None]:
    """Pyro draws from torch's global generators and makes numbers of the default dtype. Inside, the generators are
    seeded and the default is the dtype of `states`; afterwards both are what they were."""
    devices = [states.device] if states.device.type == "cuda" else []
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        torch.set_default_dtype(states.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)

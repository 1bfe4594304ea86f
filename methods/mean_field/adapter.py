"""A mean-field posterior around any network, for training loops of one's own: no layer is replaced.

bayes = BayesianNetwork(network, l2=5e-4, n_data=50_000)        # weights become Gaussians, N(w, sigma^2)
print(bayes.report())                                           # what is Bayesian, and what is not
means = torch.optim.SGD([*bayes.mean.parameters(), *bayes.points.parameters()], lr=1e-3, momentum=0.9)
log_sds = torch.optim.Adam(bayes.log_sd.parameters(), lr=1e-3, eps=1e-12)
for inputs, labels in loader:
    cross_entropy(bayes(inputs), labels).backward()             # one weight sample per batch (or per example)
    bayes.add_prior_gradients()                                 # instead of weight decay on the means
    for optimiser in (means, log_sds):
        optimiser.step()
        optimiser.zero_grad()
predictive = bayes.predict(test_inputs, draws=20)
plain = bayes.deterministic()                                   # the network at the means
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Pool, Predictive, Split, Weights, draw_log_probs, evaluating, forward, load_into
from methods.finetuning.config import NamePatterns, Which
from methods.finetuning.descent import gradient_of
from methods.finetuning.intercept import RuledWeight
from methods.finetuning.modes import only_norms_training
from methods.finetuning.points import floating
from methods.finetuning.select import Selection, matching, select
from methods.mean_field.config import RelativeRms, SigmaInit
from methods.mean_field.estimators.choose import RULES, Name
from methods.mean_field.estimators.ruled import Gaussian, GaussianRule
from methods.mean_field.posterior import GaussianPosterior
from methods.mean_field.prior import Prior
from methods.mean_field.report import selection_report
from methods.mean_field.sigma import initial_log_sd

DEFAULT_SIGMA = RelativeRms(value=0.1)


class BayesianNetwork(nn.Module):
    """The network's parameters as Gaussians N(mean, exp(2 log_sd)) and points, named as in the network.

    mean, log_sd: Gaussians of the selected parameters. points: the other parameters; those that did not require
    gradients still do not. statistics: the buffers, which forward passes in train mode update. The given network is
    never written to and keeps its own weights; dropout and stochastic depth are off in every mode.

    In train mode normalisation uses batch statistics. In every mode a forward pass uses a new weight sample, except
    for what is frozen.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        l2: float,
        n_data: int,
        which: Which = "weights",
        sigma_init: SigmaInit = DEFAULT_SIGMA,
        estimator: Name = "shared",
        prior_mean: Literal["zero", "pretrained"] = "zero",
        kl_temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        """l2: lambda; the prior is N(0 or the given weights, 1/(lambda N)). n_data: N, the training examples.

        Raises:
            ConfigError: nothing can be selected; l2, n_data or kl_temperature is not positive; sigma_init without a
                value; an unknown estimator.
        """
        super().__init__()
        _check_positive(l2=l2, n_data=n_data, kl_temperature=kl_temperature)
        if estimator not in ("shared", *RULES):
            raise ConfigError(f"estimator '{estimator}' is unknown; legal: shared, {', '.join(RULES)}")
        if getattr(sigma_init, "value", 0.0) is None:
            raise ConfigError(f"sigma_init '{sigma_init.kind}' needs a value here, for example value=0.1")
        self._network = (network,)  # in a tuple: its parameters are not this module's
        self._estimator, self._seed = estimator, seed
        self._generator: torch.Generator | None = None
        self._frozen: frozenset[str] = frozenset()
        self.selection: Selection = select(network, which, train_rest=True)
        own = {name: floating(parameter.detach()).clone() for name, parameter in network.named_parameters()}
        gaussians = {name: own[name] for name in self.selection.bayesian}
        self.centre = _nest({name: value.clone() for name, value in gaussians.items()} if prior_mean != "zero" else {})
        self._prior = Prior(l2, n_data, kl_temperature)
        generator = torch.Generator(next(iter(gaussians.values())).device).manual_seed(seed)
        initial = initial_log_sd(gaussians, sigma_init, self._prior.log_sd, generator).log_sd
        self.mean = _nest({name: nn.Parameter(value) for name, value in gaussians.items()})
        self.log_sd = _nest(
            {name: nn.Parameter(initial[name].expand_as(value).clone()) for name, value in gaussians.items()}
        )
        self.points = _nest(
            {
                name: nn.Parameter(own[name], requires_grad=name in self.selection.trained)
                for name in self.selection.trained + self.selection.frozen
            }
        )
        self.statistics = _nest({name: floating(buffer).clone() for name, buffer in network.named_buffers()})

    @classmethod
    def from_posterior(
        cls, network: nn.Module, posterior: GaussianPosterior, *, l2: float, n_data: int, estimator: Name = "shared"
    ) -> BayesianNetwork:
        """Go on from a fitted or decoded posterior of this architecture.

        Raises:
            ConfigError: the posterior is that of another architecture.
        """
        at_mean = copy.deepcopy(network)
        load_into(at_mean, posterior.mean())
        chosen = NamePatterns(include=tuple(re.escape(name) for name in posterior.log_sd))
        bayes = cls(at_mean, l2=l2, n_data=n_data, which=chosen, estimator=estimator)
        bayes._network = (network,)
        with torch.no_grad():
            for name, parameter in bayes.log_sd.named_parameters():
                parameter.copy_(posterior.log_sd[name])
        return bayes

    @property
    def network(self) -> nn.Module:
        """The network as it was given."""
        return self._network[0]

    @property
    def prior(self) -> Prior:
        """N(0 or the weights at the start, 1/(l2 n_data)), with the KL temperature."""
        centre = dict(self.centre.named_buffers())
        return replace(self._prior, mean=centre or None)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, K) under a new weight sample (under the means, for frozen parameters)."""
        points = {**dict(self.points.named_parameters()), **dict(self.statistics.named_buffers())}
        with only_norms_training(self.network, self.training):
            return forward(self.network, {**points, **self._noisy()}, inputs)

    def _noisy(self) -> Weights:
        """The Bayesian parameters of one forward pass: samples, or weights that draw their noise layer by layer."""
        means, log_sds = dict(self.mean.named_parameters()), dict(self.log_sd.named_parameters())
        gaussians = {name: Gaussian(means[name], log_sds[name]) for name in means if name not in self._frozen}
        device = next(iter(means.values())).device
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self._seed)
        if self._estimator == "shared":
            return {**means, **{name: _sample(gaussian, self._generator) for name, gaussian in gaussians.items()}}
        rule: GaussianRule = RULES[self._estimator](gaussians, self._generator)
        return {**means, **{name: RuledWeight.of(name, means[name], rule) for name in gaussians}}

    def freeze(self, *patterns: str) -> None:
        """Use the means, without noise, of the parameters that a regular expression matches in full; of all without
        a pattern.

        Raises:
            ConfigError: a pattern matches no Bayesian parameter.
        """
        self._frozen |= self._named(patterns)

    def unfreeze(self, *patterns: str) -> None:
        """Noise again, as `freeze`."""
        self._frozen -= self._named(patterns)

    def _named(self, patterns: tuple[str, ...]) -> frozenset[str]:
        names = list(self.selection.bayesian)
        found = [matching(pattern, names, "freeze") for pattern in patterns]
        return frozenset().union(*found) if patterns else frozenset(names)

    @torch.no_grad()
    def add_prior_gradients(self) -> None:
        """Add the gradients of t KL/N to `.grad` of means and log deviations: once per optimiser step, after all
        backward passes of it (BayesAdapter, arXiv 2010.01979, eq. 5). Parameters without a gradient get one."""
        means, log_sds = dict(self.mean.named_parameters()), dict(self.log_sd.named_parameters())
        prior = self.prior
        prior.add_mean_gradient([gradient_of(mean) for mean in means.values()], means)
        for name, log_sd in log_sds.items():
            prior.add_log_sd_gradient(gradient_of(log_sd)[None], log_sd[None], name)  # not flattened: any memory layout

    def kl(self) -> Tensor:
        """KL(q || prior) in nats, (), differentiable: t kl() / N in the loss does what `add_prior_gradients` does, at
        more cost."""
        log_sds = dict(self.log_sd.named_parameters())
        prior = self.prior
        total = torch.zeros((), device=next(iter(log_sds.values())).device)
        for name, mean in self.mean.named_parameters():
            precision = prior.lam_of(name) * prior.n_data
            away = mean if prior.mean is None else mean - prior.mean[name]
            spread = (away.square() + (2 * log_sds[name]).exp()) * (precision / 2)
            total = total + (spread - log_sds[name] - (math.log(precision) + 1) / 2).sum()
        return total

    def predict(self, inputs: Tensor, draws: int = 20, *, seed: int = 0, batch_size: int = 256) -> Predictive:
        """The average of `draws` soft-maxes for inputs (n, C, H, W), with the expected entropy; in eval mode. Inputs
        are on this module's device. Frozen parameters count as Gaussians here: it is the posterior that predicts."""
        posterior, pool = self.posterior(), Pool()
        split = Split(inputs, torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device))
        with evaluating(self.network):
            for weights in posterior.draws(draws, torch.Generator().manual_seed(seed)):
                pool.add(draw_log_probs(self.network, posterior, weights, split, batch_size))
        return pool.result()

    def posterior(self) -> GaussianPosterior:
        """A copy of the current state, as `mean_field` returns it: draws, mean, bytes."""
        rest = {**dict(self.points.named_parameters()), **dict(self.statistics.named_buffers())}
        return GaussianPosterior(
            {name: value.detach() for name, value in self.mean.named_parameters()},
            {name: value.detach() for name, value in self.log_sd.named_parameters()},
            {name: value.detach() for name, value in rest.items() if value.is_floating_point()},
        )

    def deterministic(self) -> nn.Module:
        """A copy of the network at the means, with the statistics gathered here."""
        plain = copy.deepcopy(self.network)
        load_into(plain, self.posterior().mean())
        return plain

    def report(self) -> str:
        """What is Bayesian, what is trained as a point, and what is not trained, with sizes."""
        return selection_report(self.network, self.selection)


def _sample(gaussian: Gaussian, generator: torch.Generator) -> Tensor:
    noise = torch.randn(gaussian.mu.shape, dtype=gaussian.mu.dtype, device=gaussian.mu.device, generator=generator)
    return torch.addcmul(gaussian.mu, gaussian.psi.exp(), noise)


def _nest(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module whose parameters and buffers have the given dotted names."""
    root = nn.Module()
    for path, tensor in tensors.items():
        *parents, name = path.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_buffer(name, tensor)
    return root


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}; it must be positive, or the prior N(m0, 1/(l2 n_data)) is improper")

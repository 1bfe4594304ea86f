"""Stage 3 trains the shared Gaussians: its gradients are those of the ELBO, and a step uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shared_posterior_cases import network, share, state_of
from small_problems import split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import forward
from methods.finetuning.descent import Descent, PointDescent, optimiser_for
from methods.finetuning.modes import only_norms_training
from methods.finetuning.step import Step
from methods.optimisers import Adam, Group
from methods.precision import Precision
from methods.stochastic_weight_sharing.gaussians import SharedGaussians
from methods.stochastic_weight_sharing.learner import SharingLearner
from methods.stochastic_weight_sharing.prior import SharingPrior
from methods.stochastic_weight_sharing.sharing.shared import Shared
from methods.stochastic_weight_sharing.state import SharedState

KINDS = [("independent", "1d"), ("independent", "2d"), ("tied", "1d"), ("tied", "2d")]
each_kind = pytest.mark.parametrize(("sampling", "codebook"), KINDS, ids=["-".join(kind) for kind in KINDS])
N_DATA, WEIGHT = 60, 0.3


class Recorder:
    """An optimiser that moves nothing and keeps the gradients."""

    def __init__(self, *parameters: Tensor) -> None:
        self._parameters = parameters
        self.seen: list[Tensor] = []

    def step(self, lr: float, found_inf: Tensor | None = None) -> None:
        self.seen = [parameter.grad.clone() for parameter in self._parameters]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def prior_of(shared: Shared) -> SharingPrior:
    return SharingPrior({name: 0.1 + 0.2 * i for i, name in enumerate(shared.shapes)}, N_DATA, WEIGHT)


def learner_of(
    net: nn.Module, state: SharedState, prior: SharingPrior, sampling: str, optimiser: Callable[..., Any], seed: int = 3
) -> SharingLearner:
    g = state.gaussians
    return SharingLearner(
        net,
        state,
        prior,
        sampling,
        torch.Generator().manual_seed(seed),
        PointDescent(state.points, optimiser_for("sgd", list(state.points.trained.values())), lambda t: 0.0, set(), 0),
        Descent(optimiser(g.codebook.table, g.outlier_log_sd), lambda t: 1e-2),
        Descent(optimiser(g.outlier_mean), lambda t: 1e-2),
    )


def step_of(learner: SharingLearner, micro_batch: int | None = None) -> Step:
    return Step(learner, micro_batch=micro_batch, precision=Precision("fp32", torch.device("cpu")))


class Case:
    """A double-precision network with outliers and ellipse points, and one step whose gradients are recorded."""

    def __init__(self, sampling: str, codebook: str, *, micro_batch: int | None = None) -> None:
        self.sampling, self.net = sampling, network().double()
        self.shared = share(self.net, outliers=9, ellipses=14)
        self.state = state_of(self.net, self.shared, codebook)
        self.prior = prior_of(self.shared)
        recorders: list[Recorder] = []

        def recorder(*parameters: Tensor) -> Recorder:
            recorders.append(Recorder(*parameters))
            return recorders[-1]

        self.learner = learner_of(self.net, self.state, self.prior, sampling, recorder)
        self.step = step_of(self.learner, micro_batch)
        self._recorders = recorders
        data = split(24)
        self.inputs, self.labels = data.inputs.double(), data.labels

    def gradients(self, labels: Tensor | None = None) -> list[Tensor]:
        """Of codebook, outliers' log deviations and means, after one step of the learner."""
        self.step(self.inputs, self.labels if labels is None else labels, 0)
        return [gradient for recorder in self._recorders for gradient in recorder.seen]

    def trained(self) -> list[Tensor]:
        g = self.state.gaussians
        return [g.codebook.table, g.outlier_log_sd, g.outlier_mean]

    def objective(self) -> Tensor:
        """CE_mean + lambda KL / D with the noise of the learner's first step, by plain autograd through gathers."""
        weights, kl = slow_draw_and_kl(self.state.gaussians, self.prior, self.sampling, self.shared)
        points = self.state.points.tensors()
        pieces = weights.split([shape.numel() for shape in self.shared.shapes.values()])
        named = {n: w.view(s) for w, (n, s) in zip(pieces, self.shared.shapes.items(), strict=True)}
        loss = cross_entropy(forward(self.net, {**points, **named}, self.inputs), self.labels)
        return loss + WEIGHT / N_DATA * kl


def slow_draw_and_kl(g: SharedGaussians, prior: SharingPrior, sampling: str, shared: Shared) -> tuple[Tensor, Tensor]:
    """(weights (N,), KL) weight by weight, from the definitions; float32 scales, as everywhere."""
    sizes = [shape.numel() for shape in shared.shapes.values()]
    r, p = (
        torch.cat([torch.full((n,), values[name]).double() for name, n in zip(shared.shapes, sizes, strict=True)])
        for values in (shared.scale, prior.scales)
    )
    labels, outside, blend = shared.labels.long(), shared.outliers.index, shared.ellipses
    generator = torch.Generator().manual_seed(3)
    single = torch.ones(len(labels), dtype=torch.bool)
    single[outside] = single[blend.index] = False
    alpha, i, j = blend.alpha, labels[blend.index], blend.second
    if len(g.codebook.table) == 2:
        a, b = g.codebook.table[0], g.codebook.table[1].exp()
    else:
        m1, m2, t1, t2, t3 = g.codebook.table
        a, b = m1, ((2 * t1).exp() + (2 * m2 + 2 * (t2**2 + (2 * t3).exp())).exp()).sqrt()
    if sampling == "independent":
        noise = torch.randn(len(labels), generator=generator, dtype=torch.float64)
        outlier_noise = noise[outside]
        x = a[labels] + b[labels] * noise
        mean = alpha * a[i] + (1 - alpha) * a[j]
        variance = alpha * (b[i] ** 2 + a[i] ** 2) + (1 - alpha) * (b[j] ** 2 + a[j] ** 2) - mean**2
        x = x.index_copy(0, blend.index, mean + variance.sqrt() * noise[blend.index])
        p_x = (p / r)[single]
        a_x, b_x = a[labels[single]], b[labels[single]]
        kl = ((p_x / b_x).log() + (b_x**2 + a_x**2) / (2 * p_x**2) - 0.5).sum()
        p_e = (p / r)[blend.index]
        kl = kl + (0.5 * (p_e**2 / variance).log() + (variance + mean**2) / (2 * p_e**2) - 0.5).sum()
    else:
        rows = 1 if len(g.codebook.table) == 2 else 3
        noise = torch.randn(rows, len(a), generator=generator, dtype=torch.float64)
        if rows == 1:
            z, log_width = a + b * noise[0], g.codebook.table[1]
        else:
            z = m1 + t1.exp() * noise[0] + (m2 + t2 * noise[0] + t3.exp() * noise[1]).exp() * noise[2]
            log_width = m2
        outlier_noise = torch.randn(len(outside), generator=generator, dtype=torch.float64)
        x = z[labels].index_copy(0, blend.index, alpha * z[i] + (1 - alpha) * z[j])
        ratio = ((r / p) ** 2)[single]
        kl = (ratio * (a**2 + b**2)[labels[single]] / 2).sum() - log_width.sum()
        mean, spread = alpha * a[i] + (1 - alpha) * a[j], (alpha * b[i]) ** 2 + ((1 - alpha) * b[j]) ** 2
        kl = kl + ((r / p)[blend.index] ** 2 * (mean**2 + spread) / 2).sum()
    sd, p_o = g.outlier_log_sd.exp(), p[outside]
    kl = kl + ((p_o / sd).log() + (sd**2 + g.outlier_mean**2) / (2 * p_o**2) - 0.5).sum()
    return (r * x).index_copy(0, outside, g.outlier_mean + sd * outlier_noise), kl


@each_kind
def test_gradients_equal_plain_autograd_through_the_gather(sampling, codebook):
    case = Case(sampling, codebook)
    found = case.gradients()
    expected = torch.autograd.grad(case.objective(), case.trained())
    for gradient, slow in zip(found, expected, strict=True):
        assert torch.allclose(gradient, slow, rtol=1e-6, atol=1e-9)  # r is stored as float32
        assert (slow.abs() > 1e-9).any()


@each_kind
def test_gradients_equal_central_differences(sampling, codebook):
    case = Case(sampling, codebook)
    found = case.gradients()
    for tensor, gradient in zip(case.trained(), found, strict=True):
        values, slopes = tensor.detach().view(-1), gradient.reshape(-1)
        for place in (slopes.abs().argmax(), torch.tensor(0)):
            ends = []
            for sign in (1, -1):
                values[place] += sign * 1e-5
                ends.append(float(case.objective().detach()))
                values[place] -= sign * 1e-5
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(slopes[place]), rel=1e-4, abs=1e-7)


@each_kind
def test_gradients_of_every_codeword_depend_on_the_batch_s_labels(sampling, codebook):
    case, other = Case(sampling, codebook), Case(sampling, codebook)
    first, second = case.gradients(), other.gradients((other.labels + 1) % 3)
    assert (first[0] != second[0]).all()
    assert all((a != b).any() for a, b in zip(first[1:], second[1:], strict=True))  # some weights have no effect


@each_kind
def test_micro_batches_add_up_to_the_batch(sampling, codebook):
    whole, parts = Case(sampling, codebook).gradients(), Case(sampling, codebook, micro_batch=7).gradients()
    for a, b in zip(whole, parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def adam(*parameters: Tensor) -> Adam:
    return Adam([Group(parameters)])


def trained_state(sampling: str, codebook: str, net: nn.Module) -> tuple[SharedState, SharingLearner, Step]:
    shared = share(net, outliers=9, ellipses=14)
    state = state_of(net, shared, codebook)
    learner = learner_of(net, state, prior_of(shared), sampling, adam)
    return state, learner, step_of(learner)


@each_kind
def test_training_lowers_the_loss_and_moves_all_that_is_trained(sampling, codebook):
    net, data = network(), split(60)
    state, learner, step = trained_state(sampling, codebook, net)
    before = {name: tensor.detach().clone() for name, tensor in state.gaussians.trained().items()}
    losses = []
    with only_norms_training(net, False):
        for t in range(60):
            loss = step(data.inputs, data.labels, t)
            losses.append(float(loss) + learner.kl() * learner.prior.rate)
    learner.release()
    assert sum(losses[-10:]) < sum(losses[:10])
    for name, tensor in state.gaussians.trained().items():
        assert (tensor != before[name]).all()
        assert not tensor.requires_grad


def test_a_loss_that_is_not_finite_changes_nothing():
    net, data = network(), split(20)
    state, _, step = trained_state("independent", "1d", net)
    before = [tensor.detach().clone() for tensor in state.gaussians.trained().values()]
    step(torch.full_like(data.inputs, torch.inf), data.labels, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, state.gaussians.trained().values(), strict=True))


@each_kind
def test_a_learner_continues_from_its_saved_state_bit_for_bit(sampling, codebook):
    net, data = network(), split(60)

    def run(state: SharedState, learner: SharingLearner, steps: range, noise: torch.Tensor | None = None) -> None:
        if noise is not None:
            learner._generator.set_state(noise)
        step = step_of(learner)
        for t in steps:
            step(data.inputs, data.labels, t)

    state, learner, _ = trained_state(sampling, codebook, net)
    run(state, learner, range(3))
    saved = {key: _copied(value) for key, value in learner.state_dict().items()}
    noise = learner._generator.get_state()
    run(state, learner, range(3, 6))
    again = SharedState.of_saved(net, saved["state"])
    other = learner_of(net, again, learner.prior, sampling, adam)
    other.load_state_dict(saved)
    run(again, other, range(3, 6), noise)
    for storage in ("compact", "exact"):
        ours, theirs = (s.posterior(sampling, storage).mean_and_sd() for s in (state, again))
        assert all(torch.equal(ours[k][name], theirs[k][name]) for k in (0, 1) for name in ours[k])


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value

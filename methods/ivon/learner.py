"""What a step of `ivon` trains: means and curvatures by the package's optimiser, the other parameters as points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.finetuning.descent import PointDescent, Rate, gradient_of
from methods.finetuning.points import copy_named
from methods.finetuning.step import Learner
from methods.ivon.curvature import log_sd_of
from methods.ivon.package import ivon_class
from methods.mean_field.prior import Prior
from methods.mean_field.state import MeanFieldState

BETA1 = 0.9


class IvonLearner(Learner):
    """IVON on the Gaussians of `state`, `point_descent` on its points.

    `state.mu` changes only in `update`: the noisy weights of a step live in other memory, so that an exception between
    `begin` and `update` leaves the means alone. `state.psi` follows in `write_log_sd`. seed: of the noise; a step draws
    it from `seed` plus the number of the draw.

    Raises:
        MissingPackage: the package ivon-opt is not installed.
    """

    advice = "Try a third of lr."

    def __init__(
        self,
        network: nn.Module,
        state: MeanFieldState,
        prior: Prior,
        rate: Rate,
        point_descent: PointDescent,
        *,
        beta2: float,
        seed: int,
    ) -> None:
        super().__init__(network, state.points)
        self.state, self.prior = state, prior
        self._rate, self._point_descent, self._seed = rate, point_descent, seed
        self._weights = {name: mean.detach().requires_grad_() for name, mean in state.mu.views.items()}
        self._ivon: Any = ivon_class()(
            # One group per tensor: the group's starting curvature scales its rate.
            [{"params": [weight]} for weight in self._weights.values()],
            lr=rate(0),
            ess=float(prior.n_data),
            beta1=BETA1,
            beta2=beta2,
            weight_decay=prior.lam,
            mc_samples=1,
            hess_approx="price",
            debias=True,
            rescale_lr=True,
        )
        self._groups: dict[str, dict[str, Any]] = dict(zip(self._weights, self._ivon.param_groups, strict=True))
        self._sampling: AbstractContextManager[None] | None = None
        self._draws = 0

    def start_at(self, curvatures: Mapping[str, float]) -> None:
        """Set the starting curvature h0 of every tensor."""
        for name, group in self._groups.items():
            group["hess_init"] = curvatures[name]
            # By hand: the package's constructor rounds its argument to float32, also for weights in double precision.
            group["hess"].fill_(curvatures[name])

    def begin(self) -> None:
        self._attach_means()
        with seeded(self._seed + self._draws, self.state.mu.flat.device):
            self._sampling = self._ivon.sampled_params(train=True)
            self._sampling.__enter__()
        self._draws += 1

    def weights(self) -> Mapping[str, Tensor]:
        return {**self.points.tensors(), **self._weights}

    def leaves(self) -> Sequence[Tensor]:
        return [*self._weights.values(), *self._point_descent.leaves()]

    @torch.no_grad()
    def update(self, t: int, found_inf: Tensor) -> None:
        """See `Learner.update`. Waits for the device: the package cannot leave a step out by itself."""
        if self._sampling is None:
            raise RuntimeError("update without begin: there is no noise that the gradients belong to")
        if not found_inf:
            for weight in self._weights.values():
                gradient_of(weight)  # the package needs one for every weight
            self._sampling.__exit__(None, None, None)
            for group in self._groups.values():
                group["lr"] = self._rate(t)
            self._ivon.step()
            torch._foreach_copy_(list(self.state.mu.views.values()), list(self._weights.values()))
        self._attach_means()
        self._point_descent.update(t, found_inf)

    def write_log_sd(self) -> None:
        """Bring `state.psi` up to the present curvatures."""
        for name, psi in self.state.psi.views.items():
            psi.copy_(log_sd_of(self._groups[name]["hess"], self.prior).view_as(psi))

    def release(self) -> None:
        """Give back the memory of optimisers and noise, once training is over; no step can follow."""
        self._point_descent.release()
        self._sampling = None
        del self._ivon, self._groups, self._weights, self._point_descent

    def state_dict(self) -> dict[str, Any]:
        """The package's own state dict lacks the number of steps, and what it loads stays on the saved device."""
        return {
            "tensors": self.state.state_dict(),
            "points": self._point_descent.state_dict(),
            "hess": {name: group["hess"] for name, group in self._groups.items()},
            "momentum": {name: group["momentum"] for name, group in self._groups.items()},
            "hess_init": {name: float(group["hess_init"]) for name, group in self._groups.items()},
            "steps": self._ivon.current_step,
            "draws": self._draws,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.load_state_dict(state["tensors"])
        self._point_descent.load_state_dict(state["points"])
        self.start_at(state["hess_init"])
        for key in ("hess", "momentum"):
            copy_named({name: group[key] for name, group in self._groups.items()}, state[key])
        self._ivon.current_step, self._draws = state["steps"], state["draws"]

    def _attach_means(self) -> None:
        """The weights are the means themselves again, whatever noise an interrupted or skipped step left in them."""
        self._sampling = None
        for name, weight in self._weights.items():
            weight.data = self.state.mu.views[name].detach()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's global generator of `device` starts from `seed`; afterwards it is where it was."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if on_cuda else []):
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield

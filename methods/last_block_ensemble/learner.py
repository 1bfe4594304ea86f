"""What a step of `last_block_ensemble` trains: copies of the last block, and the weights that all members share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.finetuning.descent import PointDescent
from methods.finetuning.points import Points, copy_named, floating
from methods.finetuning.step import Learner
from methods.last_block_ensemble.block import Place, run_members
from methods.last_block_ensemble.features import distance, hinge
from methods.last_block_ensemble.members import Layout
from methods.optimisers import clip


class Copies:
    """`trained`: name -> (C, *shape), C copies of a parameter; all start at the network's values."""

    def __init__(self, network: nn.Module, names: Iterable[str], components: int) -> None:
        self.components = components
        self.trained = {
            name: torch.stack([floating(network.get_parameter(name).detach())] * components) for name in names
        }

    def one(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The weights of a member drawn by a generator on their device."""
        device = next(iter(self.trained.values())).device
        member = int(torch.randint(self.components, (), generator=generator, device=device))
        return {name: stack[member] for name, stack in self.trained.items()}


class LastBlockLearner(Learner):
    """Cross-entropy of clean examples, each under a member of its own, plus alpha times the hinge of noisy ones, each
    under two distinct members. clip_norm: largest global norm of the data's gradient, copies and the rest together."""

    def __init__(
        self,
        network: nn.Module,
        place: Place,
        points: Points,
        copies: Copies,
        point_descent: PointDescent,
        copy_descent: PointDescent,
        noise: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        *,
        alpha: float,
        gamma: float,
        clip_norm: float | None = None,
    ) -> None:
        """generator: on the CPU, draws members."""
        super().__init__(network, points)
        self.copies, self._place, self._noise, self._generator = copies, place, noise, generator
        self._descents = {"points": point_descent, "copies": copy_descent}
        self._alpha, self._gamma, self._clip_norm = alpha, gamma, clip_norm
        self.distance = torch.zeros(())
        """Mean distance of the pairs of members in the last pass, ()."""

    def begin(self) -> None:
        """Noise and members are drawn per micro-batch."""

    def weights(self) -> Mapping[str, Tensor]:
        """Those that the members share."""
        return self.points.tensors()

    def leaves(self) -> Sequence[Tensor]:
        return [leaf for descent in self._descents.values() for leaf in descent.leaves()]

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """The first half of the examples, rounded up, is clean; the others are made noisy. The weights before the block
        see each example once, the block sees a noisy one twice."""
        clean = (len(inputs) + 1) // 2
        inputs = torch.cat([inputs[:clean], self._noise(inputs[clean:])])
        layout = self._layout(clean, len(inputs) - clean, inputs.device)
        logits, features = run_members(self.network, self._place, self.weights(), self.copies.trained, inputs, layout)
        loss = cross_entropy(logits[:clean], labels[:clean])
        if clean == len(inputs):
            return loss
        apart = distance(*features[clean:].chunk(2))
        self.distance = apart.detach().mean()
        return loss + self._alpha * hinge(apart, self._gamma)

    def _layout(self, clean: int, noisy: int, device: torch.device) -> Layout:
        """Rows: clean examples, noisy ones under a first member, noisy ones under a second, distinct one."""
        count = self.copies.components
        first = torch.randint(count, (clean + noisy,), generator=self._generator)
        shift = torch.randint(1, count, (noisy,), generator=self._generator)
        examples = torch.cat([torch.arange(clean + noisy), torch.arange(clean, clean + noisy)])
        return Layout(examples, torch.cat([first, (first[clean:] + shift) % count]), count, device)

    def update(self, t: int, found_inf: Tensor) -> None:
        if self._clip_norm is not None:
            clip([leaf.grad for leaf in self.leaves() if leaf.grad is not None], self._clip_norm)
        for descent in self._descents.values():
            descent.update(t, found_inf)

    def release(self) -> None:
        """The tensors as plain numbers again, once training is over."""
        for descent in self._descents.values():
            descent.release()

    def state_dict(self) -> dict[str, Any]:
        return {
            "points": self.points.state_dict(),
            "copies": dict(self.copies.trained),
            "descents": {name: descent.state_dict() for name, descent in self._descents.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.points.load_state_dict(state["points"])
        copy_named(self.copies.trained, state["copies"])
        for name, descent in self._descents.items():
            descent.load_state_dict(state["descents"][name])

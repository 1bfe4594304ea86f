"""The posterior of a network as stochastic gradients see it: weights and gradients in one piece of memory each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmark import ConfigError, Split, evaluating, forward
from methods.finetuning.flat import Flat, chunks
from methods.finetuning.modes import SMALLEST_BATCH, norms
from methods.finetuning.points import Points
from methods.finetuning.statistics import reset_statistics

EVALUATION_BATCH = 256


class StochasticTarget:
    """-log p(w | data) = sum of cross-entropies + 1/2 sum (w/s)^2, at weights that are changed in place.

    weights, gradient: all trainable parameters, (P,) in the order of the network's parameters. The network itself is
    never written to; it has to be inside `only_norms_training(network, True)` while gradients are taken.

    scales: s by name. batch_size: of the passes that estimate running statistics. micro_batch: most examples per pass
    of a gradient, None: all.

    Raises:
        ValueError: `scales` names other parameters.
        ConfigError: batches are too small for batch statistics.
    """

    def __init__(
        self,
        network: nn.Module,
        scales: Mapping[str, float],
        split: Split,
        *,
        batch_size: int,
        micro_batch: int | None = None,
    ) -> None:
        own = dict(network.named_parameters())
        trained = [name for name, parameter in own.items() if parameter.requires_grad]
        if sorted(trained) != sorted(scales):
            odd = sorted(set(trained) ^ set(scales))
            raise ValueError(f"scales must name every trainable parameter and nothing else; '{odd[0]}' differs")
        _check_batch(network, len(split), batch_size)
        self.network, self.examples = network, len(split)
        self.weights = Flat.copy_of({name: own[name].detach() for name in trained})
        self.gradient = Flat.like(self.weights)
        self._plain, self._batch_size, self._micro_batch = split.first(len(split)), batch_size, micro_batch
        self._points = Points(network, (), (name for name in own if name not in scales))
        self._scales = [(scales[name], view.numel()) for name, view in self.weights.views.items()]
        for name, leaf in self.weights.views.items():
            leaf.requires_grad_().grad = self.gradient.views[name]  # backward adds to what is there, in place

    def load(self, network: nn.Module) -> None:
        """Go to the weights of a network of the same architecture."""
        values = dict(network.named_parameters())
        with torch.no_grad():
            for name, view in self.weights.views.items():
                view.copy_(values[name])

    def backward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Fill `gradient` with N times that of the batch's mean cross-entropy, plus w/s^2; the mean cross-entropy (),
        detached."""
        self.gradient.flat.zero_()
        if inputs.is_cuda:  # the inputs' layout decides that of all activations
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        parts = -(-len(labels) // (self._micro_batch or len(labels)))
        total = torch.zeros((), device=labels.device)
        for x, y in zip(inputs.tensor_split(parts), labels.tensor_split(parts), strict=True):
            loss = cross_entropy(forward(self.network, self._tensors(), x), y) * (len(y) / len(labels))
            (loss * self.examples).backward()
            total = total + loss.detach()
        with torch.no_grad():
            for start, stop, scale in self._runs():
                self.gradient.flat[start:stop].add_(self.weights.flat[start:stop], alpha=1 / scale**2)
        return total

    def scale_vector(self) -> Tensor:
        """s of every weight: (P,), or (1,) where all are equal."""
        runs = self._runs()
        like = self.weights.flat
        if len(runs) == 1:
            return like.new_full((1,), runs[0][2])
        return torch.cat([like.new_full((stop - start,), scale) for start, stop, scale in runs])

    @torch.no_grad()
    def log_posterior(self) -> float:
        """log p(w | data) at temperature 1 up to a constant, in float64 from the logits on, over the split without
        augmentation, by the running statistics last estimated. Waits for the device."""
        total = torch.zeros((), dtype=torch.float64, device=self.weights.flat.device)
        with evaluating(self.network):
            for inputs, labels in self._plain.batches(EVALUATION_BATCH):
                log_probs = forward(self.network, self._tensors(), inputs).double().log_softmax(-1)  # (b, K)
                total += log_probs.gather(1, labels[:, None]).sum()
        for start, stop, scale in self._runs():
            for (piece,) in chunks(self.weights.flat[start:stop]):
                total -= piece.double().square().sum() / (2 * scale**2)
        return float(total)

    def estimate_statistics(self, seed: int) -> dict[str, Tensor]:
        """Running means and variances at these weights, by name: plain averages over one pass over the split, without
        augmentation; none where the network keeps none. From now on `log_posterior` is evaluated with them.

        seed: of the order, which decides what examples are in a batch together.
        """
        found = reset_statistics(self.network, self._tensors(), self._plain, self._batch_size, seed)
        self._points.buffers.update(found)
        return found

    def _tensors(self) -> dict[str, Tensor]:
        return {**self._points.tensors(), **self.weights.views}

    def _runs(self) -> list[tuple[int, int, float]]:
        """(start, stop, s) of neighbouring weights under one s: few kernels, one in the usual case."""
        runs: list[tuple[int, int, float]] = []
        start = 0
        for scale, size in self._scales:
            if runs and runs[-1][2] == scale:
                runs[-1] = (runs[-1][0], start + size, scale)
            else:
                runs.append((start, start + size, scale))
            start += size
        return runs


def _check_batch(network: nn.Module, examples: int, batch_size: int) -> None:
    smallest = examples // -(-examples // batch_size)
    if norms(network) and smallest < SMALLEST_BATCH:
        raise ConfigError(
            f"batches of {smallest} examples are too small for the batch statistics of this network; legal: at least "
            f"{SMALLEST_BATCH}. Raise batch_size, which is {batch_size}."
        )

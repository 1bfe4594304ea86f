"""The tensors of stage 3, between sharing and the posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from benchmark import Fact
from methods.finetuning.points import Points, copy_named, floating
from methods.stochastic_weight_sharing.codebook import CODEBOOKS, Kind, codebook_of
from methods.stochastic_weight_sharing.encoding import Storage
from methods.stochastic_weight_sharing.gaussians import SharedGaussians
from methods.stochastic_weight_sharing.labelling import Labelling
from methods.stochastic_weight_sharing.posterior import SharedPosterior
from methods.stochastic_weight_sharing.sampler import SAMPLERS, Sampler, Sampling
from methods.stochastic_weight_sharing.sharing.shared import Shared


class SharedState:
    """gaussians: codebook and outliers, in the network's precision, and the labels, which stay. points: the rest."""

    def __init__(self, network: nn.Module, shared: Shared, points: Points, codebook: Kind) -> None:
        """The clusters' own codewords; the network is only asked for its precision."""
        labelling = Labelling.of(shared)
        r = labelling.outliers.spread(labelling.scale)
        self.points = points
        self.gaussians = _in_precision_of(
            network,
            labelling,
            {
                "codebook": CODEBOOKS[codebook].of(shared.clusters).table,
                "outlier_mean": shared.outliers.x.double() * r,
                "outlier_log_sd": (shared.outliers.s.double() * r).log(),
            },
        )

    @classmethod
    def of_saved(cls, network: nn.Module, saved: Mapping[str, Any]) -> SharedState:
        """The state that `state_dict` describes, on the network's device. What is neither shared nor trained is the
        network's."""
        state = cls.__new__(cls)
        device = next(network.parameters()).device
        labelling = Labelling.of_saved(saved["labelling"], device)
        trained = saved["points"]["trained"]
        fixed = [name for name, _ in network.named_parameters() if name not in labelling.shapes.keys() | trained.keys()]
        state.points = Points(network, trained, fixed)
        state.points.load_state_dict(saved["points"])
        state.gaussians = _in_precision_of(
            network, labelling, {name: tensor.to(device) for name, tensor in saved["gaussians"].items()}
        )
        return state

    @property
    def trainable_scalars(self) -> int:
        """Of the Gaussians: 2 |O| + 2 K or 5 K."""
        return self.gaussians.trainable_scalars

    def sampler(self, sampling: Sampling) -> Sampler:
        """Draws from the state as it is at each call."""
        return SAMPLERS[sampling](self.gaussians)

    def posterior(
        self, sampling: Sampling, storage: Storage, facts: Mapping[str, Fact] | None = None
    ) -> SharedPosterior:
        """A copy, rounded to what `storage` keeps."""
        return SharedPosterior.of(self.gaussians, self.points.floats(), sampling, storage, facts)

    def state_dict(self) -> dict[str, Any]:
        """All that `of_saved` needs beside the network: labels and masks, too."""
        return {
            "labelling": self.gaussians.labelling.state_dict(),
            "gaussians": self.gaussians.trained(),
            "points": self.points.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Copy what is trained, in place; the labels must be those of the saved state.

        Raises:
            ConfigError: the state is that of another network or another sharing.
        """
        copy_named(self.gaussians.trained(), saved["gaussians"])
        self.points.load_state_dict(saved["points"])


def _in_precision_of(network: nn.Module, labelling: Labelling, tensors: Mapping[str, Tensor]) -> SharedGaussians:
    """Copies of `tensors`, which are named as in `SharedGaussians.trained`."""
    dtype = floating(next(network.parameters()).detach()[:0]).dtype
    own = {name: tensor.detach().to(dtype, copy=True) for name, tensor in tensors.items()}
    return SharedGaussians(labelling, codebook_of(own["codebook"]), own["outlier_mean"], own["outlier_log_sd"])

"""The shared Gaussians, those of the outliers, and who has which: all that a draw of the weights needs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from methods.finetuning.flat import Flat
from methods.stochastic_weight_sharing.codebook import Codebook
from methods.stochastic_weight_sharing.labelling import Labelling


@dataclass(frozen=True)
class SharedGaussians:
    """outlier_mean, outlier_log_sd: (|O|,), mu and ln sigma of the weights themselves, not divided by r."""

    labelling: Labelling
    codebook: Codebook
    outlier_mean: Tensor
    outlier_log_sd: Tensor

    def trained(self) -> dict[str, Tensor]:
        """What stage 3 trains, by name."""
        return {
            "codebook": self.codebook.table,
            "outlier_mean": self.outlier_mean,
            "outlier_log_sd": self.outlier_log_sd,
        }

    @property
    def trainable_scalars(self) -> int:
        """2 |O| + 2 K, or 5 K for the codebook over (mu, ln sigma)."""
        return sum(tensor.numel() for tensor in self.trained().values())

    def memory(self) -> Flat:
        """Uninitialised room for one weight per label."""
        table = self.codebook.table
        return Flat(self.labelling.shapes, table.dtype, table.device)

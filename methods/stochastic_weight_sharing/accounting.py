"""Length of a shared posterior in bits, as a formula: what the file must take, and what published counts amount to."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class CodeLength:
    """Bits of each part of the two-part code, without the frame of the file.

    labels: of the inliers. positions: of the outliers among all weights. ellipses: who they are, their second clusters
    and shares.
    """

    labels: float
    positions: float
    outliers: float
    codebook: float
    ellipses: float
    scale: float
    rest: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(float(getattr(self, part.name)) for part in fields(self))


def code_length(
    *,
    weights: int,
    components: int,
    outliers: int,
    ellipses: int = 0,
    label_bits: float | None = None,
    outlier_bits: float = 64,
    codeword_bits: float = 64,
    ellipse_bits: float | None = None,
    scales: int = 0,
    rest: int = 0,
) -> CodeLength:
    """N weights in K clusters, |O| outliers, |E| ellipse points; label_bits, outlier_bits, codeword_bits, ellipse_bits
    per inlier, outlier, cluster and ellipse point; scales and rest are counts of float32 numbers.

    label_bits None: a fixed length of ceil(log2 K). ellipse_bits None: the same and 8 for the share. codeword_bits: 64
    for the codebook over mu, 160 for that over (mu, ln sigma).
    """
    inliers = weights - outliers
    fixed = (components - 1).bit_length()
    return CodeLength(
        labels=inliers * (fixed if label_bits is None else label_bits),
        positions=position_bits(weights, outliers),
        outliers=outliers * outlier_bits,
        codebook=components * codeword_bits,
        ellipses=ellipses * (fixed + 8 if ellipse_bits is None else ellipse_bits) + position_bits(inliers, ellipses),
        scale=32 * scales,
        rest=32 * rest,
    )


def position_bits(n: int, chosen: int) -> float:
    """log2 of the number of ways to choose some of n."""
    return (math.lgamma(n + 1) - math.lgamma(chosen + 1) - math.lgamma(n - chosen + 1)) / math.log(2)

"""The corruptions of CIFAR-10-C, CIFAR-100-C and ImageNet-C (Hendrycks and Dietterich, ICLR 2019)."""

from __future__ import annotations

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 of the benchmark, in the paper's order, as files and folders are called; the archives hold four more, which
are for validation."""

"""Cost of the sharing in seconds and bytes, and beside scikit-learn's clustering. Prints what it measures.

On one thread, whoever computes: most of the sharing is bincounts, which have no other.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from paired_timing import threads
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmark.cost import peak_memory
from methods.stochastic_weight_sharing.sharing.moments import Moments, mean_kl
from methods.stochastic_weight_sharing.sharing.settings import SharingSettings
from methods.stochastic_weight_sharing.sharing.share import share
from methods.stochastic_weight_sharing.sharing.shared import Shared
from tasks.networks.catalogue import WideResNet

pytestmark = pytest.mark.benchmarks

COMPONENTS = 256
LONGEST_SECONDS = 300.0
"""Of scikit-learn's mixture; after it, the time so far is a lower bound."""


def heavy_tailed(shapes: Mapping[str, torch.Size]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(mu, sigma): He-initialised layers with tails, sigma about a tenth of the standard deviation."""
    generator = torch.Generator().manual_seed(0)
    mu, sigma = {}, {}
    for name, shape in shapes.items():
        deviation = (2 / shape[1:].numel()) ** 0.5
        tails = torch.randn(shape, generator=generator).mul_(0.5).exp_()
        mu[name] = torch.randn(shape, generator=generator).mul_(tails).mul_(deviation)
        sigma[name] = torch.randn(shape, generator=generator).mul_(0.7).exp_().mul_(0.1 * deviation)
    return mu, sigma


def wide_resnet_shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        net = WideResNet().build("wrn-28-10", (3, 32, 32), 10)
    return {name: value.shape for name, value in net.named_parameters() if value.ndim >= 2}


def resident_memory() -> int:
    """Of this process, bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


def share_a_wide_resnet(_: None) -> tuple[float, int, int]:
    """(seconds, bytes beyond the inputs, weights), in a process whose peak is that of the sharing."""
    with threads(1):
        mu, sigma = heavy_tailed(wide_resnet_shapes())
        resident = resident_memory()
        start = time.perf_counter()
        shared = share(mu, sigma)
        seconds = time.perf_counter() - start
        assert shared.components == COMPONENTS
        return seconds, (peak_memory() or 0) - resident, len(shared.labels)


def test_sharing_of_a_wide_resnet_takes_seconds_and_little_memory():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        seconds, beyond, weights = alone.submit(share_a_wide_resnet, None).result()
    print(f"\nwrn-28-10, {weights:,} weights, K = {COMPONENTS}, one thread: {seconds:.2f} s")
    print(f"  {beyond / 2**20:.0f} MiB beyond mu and sigma, {beyond / weights:.1f} bytes per weight")
    assert weights == 36_461_232
    assert seconds < 15
    assert beyond <= 10 * weights


def median_time(call: Callable[[], Shared], repeats: int = 5) -> tuple[Shared, float]:
    """What it returns, and its seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def standardised(x: Tensor, s: Tensor) -> Tensor:
    """(N, 2): x and ln s, each of mean zero and variance one."""
    points = torch.stack([x, s.log()], dim=1).double()
    return (points - points.mean(0)) / points.std(0)


def kl_of(x: Tensor, s: Tensor, labels: Tensor) -> float:
    """Mean KL per weight at the clusters' own codewords."""
    x, s = x.double(), s.double()
    log = s.log()
    table = torch.stack([torch.ones_like(x), x, x * x, log, log * log, x * log, s, s * s, x * s])
    return mean_kl(Moments(table).pooled(labels.long(), COMPONENTS))


def mixture_of(points: Tensor) -> tuple[Tensor, str]:
    """scikit-learn's mixture with its defaults (full covariances, k-means start, tolerance 1e-3, at most 100
    iterations), asked every ten whether it has had its time."""
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(COMPONENTS, max_iter=10, random_state=0, warm_start=True)
    start, iterations = time.perf_counter(), 0
    while iterations < 100 and time.perf_counter() - start < LONGEST_SECONDS:
        model.fit(points.numpy())
        iterations += model.n_iter_
        if model.converged_:
            break
    state = "converged" if model.converged_ else "not converged: a lower bound"
    return torch.from_numpy(model.predict(points.numpy())), f"{iterations} iterations, {state}"


def kmeans_of(points: Tensor) -> tuple[Tensor, str]:
    from sklearn.cluster import KMeans

    model = KMeans(COMPONENTS, random_state=0).fit(points.numpy())
    return torch.from_numpy(model.labels_), f"{model.n_iter_} iterations"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "other", "faster"),
    [("GaussianMixture", mixture_of, 100), ("KMeans", kmeans_of, 10)],
    ids=["GaussianMixture", "KMeans"],
)
def test_sharing_is_faster_and_closer_than_scikit_learn(
    name: str, other: Callable[[Tensor], tuple[Tensor, str]], faster: float
):
    """K = 256, 250,000 weights: the same points, all of them clustered, no outliers."""
    mu, sigma = heavy_tailed({"w": torch.Size((500, 500))})
    everyone = SharingSettings(outlier_fraction=0)
    with threads(1), threadpool_limits(1):
        share(mu, sigma, everyone)
        shared, seconds = median_time(lambda: share(mu, sigma, everyone))
        x, s = mu["w"].view(-1) / shared.scale["w"], sigma["w"].view(-1) / shared.scale["w"]
        own = kl_of(x, s, shared.labels)
        start = time.perf_counter()
        theirs, how = other(standardised(x, s))
        ratio = (time.perf_counter() - start) / seconds
    kl = kl_of(x, s, theirs)
    print(
        f"\n{len(x):,} weights: {seconds:.2f} s, mean KL {own:.4f}; {name}: {ratio:.1f} x the time, {how}, KL {kl:.4f}"
    )
    assert shared.components == COMPONENTS
    assert own <= kl
    assert ratio > faster

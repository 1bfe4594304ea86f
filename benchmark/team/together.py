"""A team of several processes: collectives of torch.distributed, by NCCL between GPUs and by gloo between CPUs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from benchmark.errors import BenchError
from benchmark.team import Team
from benchmark.team.meeting import Store

PATIENCE = timedelta(minutes=30)
"""How long a member waits for the others. A member that dies is noticed in seconds; this is for one that hangs."""
BUCKET_BYTES = 64 * 2**20


class ExchangeFailed(BenchError):
    """The members could not talk to each other: one of them has died, or hangs."""


class MembersDiffer(BenchError):
    """Members that must have the same do not."""


class Together(Team):
    """Member `rank` of `size` >= 2. Small decisions go by gloo from CPU to CPU, so that no GPU is waited for; sums of
    tensors on a GPU by NCCL."""

    def __init__(self, rank: int, size: int, device: torch.device, store: Store | None) -> None:
        """store: where the members meet; None: the variables that torchrun has set."""
        self.rank, self.size = rank, size
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with _talking():
            if store is None:
                dist.init_process_group("gloo", init_method="env://", timeout=PATIENCE)
            else:
                dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
            # Between CPUs the sums go the way of the decisions.
            self._sums = (
                None
                if device.type == "cpu"
                else cast(dist.ProcessGroup, dist.new_group(backend="nccl", timeout=PATIENCE))
            )

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        buckets = list(_buckets(tensors))
        with torch.no_grad(), _talking():
            flats = [torch.cat([tensor.reshape(-1) for tensor in bucket]) for bucket in buckets]
            works = [dist.all_reduce(flat, group=self._sums, async_op=True) for flat in flats]
            for bucket, flat, work in zip(buckets, flats, works, strict=True):
                assert work is not None
                work.wait()
                pieces = flat.split([tensor.numel() for tensor in bucket])
                views = [piece.view(tensor.shape) for piece, tensor in zip(pieces, bucket, strict=True)]
                torch._foreach_copy_(bucket, views)

    def from_first(self, compute: Callable[[], Sequence[float]], n: int) -> list[float]:
        numbers = torch.zeros(n, dtype=torch.float64)
        if self.rank == 0:
            numbers.copy_(torch.tensor(list(compute()), dtype=torch.float64))
        with _talking():
            dist.broadcast(numbers, 0)
        found: list[float] = numbers.tolist()
        return found

    def first_says(self, flag: bool) -> bool:
        return bool(self.from_first(lambda: [float(flag)], 1)[0])

    def require_same(self, what: str, text: str) -> None:
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
        found = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _talking():
            dist.all_gather(found, torch.tensor([digest]))
        if len({int(each) for each in found}) > 1:
            raise MembersDiffer(f"{what} differs between the {self.size} devices of this run; here it is: {text}")

    def part(self) -> None:
        """Take leave, after the last exchange of all members."""
        with _talking():
            dist.barrier()
            dist.destroy_process_group()


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ExchangeFailed(f"the exchange with the other devices of this run failed: {error}") from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype, in their order, of about BUCKET_BYTES together."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        room = BUCKET_BYTES
        for tensor in (tensor for tensor in tensors if tensor.dtype == dtype):
            if bucket and room < tensor.nbytes:
                yield bucket
                bucket, room = [], BUCKET_BYTES
            bucket.append(tensor)
            room -= tensor.nbytes
        yield bucket

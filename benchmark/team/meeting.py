"""Where the members of a team on one machine meet: a store on a free port that the leader holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # public, and missing in `__all__`

HOST = "127.0.0.1"
JOIN_SECONDS = 300

__all__ = ["Meeting", "Store"]


class Meeting:
    """The leader's side. address: `HOST:PORT`, of this machine only."""

    def __init__(self) -> None:
        # gloo would look up the machine's name, which may have no address or one behind a firewall
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
        self.store: Store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        self.address = f"{HOST}:{self.store.port}"

    def all_here(self, ranks: Sequence[int]) -> bool:
        """Whether these members have come; asks and does not wait."""
        return bool(self.store.check([f"here/{rank}" for rank in ranks]))

    @staticmethod
    def joined(address: str, rank: int) -> Store:
        """The store of the leader at `address`, told that member `rank` is there."""
        host, _, port = address.rpartition(":")
        store = TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=JOIN_SECONDS))
        store.set(f"here/{rank}", "1")
        return store

"""One run after another, supervised by this very process: the simplest launcher, and a reference for the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.identity import RunSpec
from benchmark.launch.launcher import Launcher, Watcher
from benchmark.operation import Operation
from benchmark.store import Store


class Inline(Launcher):
    """Runs in plan order, in the foreground, one at a time."""

    name = "inline"
    Config = Operation

    def launch(self, specs: Sequence[RunSpec], store: Store, config: Any, watcher: Watcher) -> None:
        from benchmark.worker import work

        for spec in specs:
            run = store.folder(spec.id)
            missing = [need for need in spec.needs if store.folder(need).state().name != "ok"]
            if missing:
                watcher.skipped(spec.id, f"needs {missing[0]} ({store.folder(missing[0]).state().name})")
                continue
            config.hand_over(run)
            watcher.started(spec.id)
            try:
                work(str(run.path))
            finally:
                watcher.ended(spec.id, run.state())

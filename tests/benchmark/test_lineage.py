"""What a run started from counts: a retrained base makes its dependents stale, and no resume mixes two bases."""

from pathlib import Path
from typing import Any

import torch

from benchmark.context import Context
from benchmark.contracts import Posterior
from benchmark.identity import Part, RunSpec
from benchmark.posteriors import PointMass, WeightSamples
from benchmark.runfolder import State
from benchmark.store import Status, current_code, status_of


def _spec(method: str, needs: tuple[str, ...] = ()) -> RunSpec:
    return RunSpec(Part("digits", 1), "feed", Part("mlp-8", 1), Part(method, 1), {"draws": 1, "budget": 1.0}, 0, needs)


def _ok(spec: RunSpec, posterior: str, needs: dict[str, str] | None = None) -> State:
    detail: dict[str, Any] = {"code": current_code(spec), "posterior": {"sha256": posterior}, "needs": needs or {}}
    return State("ok", 1, detail)


def test_a_run_is_stale_once_its_base_has_another_posterior() -> None:
    base = _spec("map")
    own = _spec("map_temperature", (base.id,))
    for now, expected in (("aaaa", "done"), ("bbbb", "stale")):
        earlier = {base.id: Status("done", _ok(base, now))}
        status = status_of(own, _ok(own, "cccc", {base.id: "aaaa"}), earlier)
        assert status.name == expected
    assert base.id in status.note


def test_a_checkpoint_that_started_from_another_base_is_passed_over(tmp_path: Path) -> None:
    def context(posterior: str) -> Context:
        return Context(tmp_path, ("digits", 0), lineage={"base": posterior}, checkpoint_seconds=0)

    context("aaaa").checkpoint.offer(lambda: {"step": 3})
    assert context("aaaa").checkpoint.load() == {"step": 3}
    assert context("bbbb").checkpoint.load() is None


def test_decoded_weights_are_on_the_networks_device() -> None:
    """Shown with the meta device, which any machine has."""

    class Source:
        def tensors(self, _name: str) -> dict[str, torch.Tensor]:
            return {"weight": torch.ones(2)}

        def generic(self) -> dict[str, torch.Tensor]:
            return {"weight": torch.ones(2)}

        def json(self, _name: str) -> int:
            return 1

    class Generic(PointMass):
        decode = classmethod(Posterior.decode.__func__)  # type: ignore[attr-defined]

        @classmethod
        def from_state(cls, state: dict[str, torch.Tensor], network: torch.nn.Module) -> PointMass:
            return cls(state)

    network = torch.nn.Linear(2, 2, device="meta")
    source: Any = Source()
    for kind in (PointMass, WeightSamples, Generic):
        draw = next(kind.decode(source, network).draws(1, torch.Generator()))
        assert draw["weight"].device.type == "meta", kind.__name__

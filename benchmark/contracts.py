"""The vocabulary: what a method, a posterior, a task and a network are. No machinery.

The module imports nothing heavy, so that declarations of plugins can be listed and planned in milliseconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from benchmark.config import Config, MethodConfig
from benchmark.datasets import fingerprint_of
from benchmark.resources import Resources

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from benchmark.compression import BitReader, BitWriter
    from benchmark.data import Split
    from benchmark.datasets import DataSet
    from benchmark.inputs import Inputs
    from benchmark.team import Team

Weights: TypeAlias = "Mapping[str, Tensor]"
"""Parameter (and buffer) names of the untouched network -> tensors."""

SplitName = Literal["train", "val", "test"]
Fact = float | int | str | bool


@dataclass(frozen=True)
class Need:
    """A run whose posterior a method starts from: same task, network, seed and protocol, another method."""

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)


class Posterior(ABC):
    """A distribution over the weights of one untouched network, that can be drawn from and written to bytes.

    Weights are named as in `network.named_parameters()` and `network.named_buffers()`. A weight sample holds every
    parameter and every floating-point buffer (running statistics), as `weights_of(network)` gives them, on the run's
    device: predictions are made with a network that has nothing of its own.
    """

    @property
    def support(self) -> int | None:
        """How many distinct weight samples there are, for a uniform mixture of finitely many (1: a point mass,
        M: an ensemble); None for a continuous posterior. The suite predicts with min(S, support) draws."""
        return None

    @property
    def prediction_draws(self) -> int | None:
        """Draws that every prediction averages whatever the protocol's S, where fewer would be another predictive (the
        stored samples of a chain); None to follow the protocol. Tables show the number."""
        return None

    @abstractmethod
    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        """`n` weight samples. The generator (CPU) is the only source of randomness; `draws(5)` is a prefix of
        `draws(20)` for equal generator states. A yielded sample may be overwritten when the next is asked for."""

    def mean(self) -> Weights | None:
        """The mean weights, or None when a mean over weights has no meaning (an ensemble of modes)."""
        return None

    def log_probs(self, logits: Tensor) -> Tensor:
        """The link from logits (n, K) of one draw to log class probabilities; log-softmax unless overridden."""
        return logits.log_softmax(dim=-1)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to predict again, as named tensors, for the generic codec (see `encode`)."""
        raise NotImplementedError(
            f"{type(self).__name__} defines neither `encode`/`decode` nor `state`/`from_state`; "
            "a posterior must be writable to bytes. Define one of the two pairs."
        )

    @classmethod
    def from_state(cls, state: dict[str, Tensor], network: nn.Module) -> Posterior:
        """The inverse of `state`; `network` has the architecture and arbitrary weights, on the run's device, where
        the tensors of `state` are too."""
        raise NotImplementedError(f"{cls.__name__}.from_state is not defined")

    def encode(self, out: BitWriter) -> None:
        """Write everything needed to predict again. Default: the generic codec over `state()`."""
        out.generic(self.state())

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> Posterior:
        """The inverse of `encode`, from the bytes and the architecture alone. Default: the generic codec.

        What `src` gives is on the CPU, `network` on the run's device: move tensors there (`on_device_of`)."""
        device = next(network.parameters()).device
        return cls.from_state({name: tensor.to(device) for name, tensor in src.generic().items()}, network)

    score_name: ClassVar[str | None] = None
    """What `score` measures, in two or three words; a posterior that overrides `score` names it."""

    def score(self, network: nn.Module, draws: Sequence[Weights], inputs: Tensor) -> Tensor | None:
        """The posterior's own uncertainty (n,) about each of `inputs` (n, C, H, W): larger = more suspicious.

        For detecting out-of-distribution and attacked inputs, beside the scores that every prediction has. `draws` are
        the weight samples that the prediction averages, `network` is in eval mode and is to be left as it is. Must be
        differentiable with respect to `inputs` (attacks that know the score ascend it) and treat every example on its
        own: the suite calls it in batches. None: this posterior has no score of its own.
        """
        return None

    def facts(self) -> dict[str, Fact]:
        """Finite numbers and short texts worth a column: outliers, acceptance, KL per weight, ...

        The fact `marks`, a text with commas, holds what a reader of the row must know ("fixed sigma"); tables show it
        behind the row's name. The fact `ranked: False` is for a control: its row is shown, and no cell of it is marked
        as the best."""
        return {}


@dataclass(frozen=True)
class NeededRun:
    """A finished run that a method starts from, as `RunContext.needed` hands it over.

    seconds: what its `fit` took, over all attempts.
    """

    method: str
    config: Mapping[str, Any]
    facts: Mapping[str, Fact]
    posterior: Posterior
    seconds: float = 0.0


@dataclass(frozen=True)
class Problem:
    """What a method is given to learn from: network, training and validation data. Never the test data."""

    network: nn.Module
    """Float32, on the run's device. Holds the mean weights of the first needed run, else a seeded initialisation."""
    new_network: Callable[[int], nn.Module]
    """`new_network(seed)`: the same architecture, freshly initialised from `seed`, on the run's device, without `start`
    (below)."""
    train: Split
    val: Split | None
    input_shape: tuple[int, int, int]
    n_classes: int
    draws: int
    """S, the number of draws that the suite will predict with."""
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights by name that the network's settings put in place of those of the initialisation (`pretrained`), all or
    some; empty for a network that starts untrained. `network` has them already, unless a needed run has trained it."""
    budget: float = 1.0
    """The protocol's factor on training lengths, the same for every method of a study."""

    @property
    def n_train(self) -> int:
        """Training examples that the method sees, validation excluded (the N of an ELBO)."""
        return len(self.train)

    def epochs(self, nominal: int) -> int:
        """A nominal number of epochs under the protocol's budget; at least 1 unless `nominal` is 0."""
        return max(1, round(nominal * self.budget)) if nominal > 0 else 0


class Checkpoints(Protocol):
    """Saved states of one run. States are trees of dict, list, str, int, float, bool, None and tensors."""

    def load(self) -> dict[str, Any] | None:
        """The newest valid state, generators and history rewound to it; None at a first start."""

    def offer(self, state: Callable[[], dict[str, Any]]) -> None:
        """A point where the run can resume. Calls `state` and saves only when a checkpoint is due.

        Raises:
            Interrupted: a stop was asked for; the state has been saved.
        """


class RunContext(Protocol):
    """What the suite lends to a method for one run: device, seeds, checkpoints, history, the needed runs."""

    device: torch.device
    checkpoint: Checkpoints
    needed: Sequence[NeededRun]
    micro_batch: int | None
    """Operational cap on examples per forward pass; methods that accumulate gradients honour it."""
    team: Team
    """The processes that train this run together; of one, unless the method is `parallel` and several devices were
    asked for. Checkpoints, history, progress and figures are the team's: all members call them alike, one writes."""

    def seed_for(self, *parts: str | int) -> int:
        """A 63-bit seed for a purpose, hashed from the run's task, network, method, seed and `parts`."""

    def generator(self, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
        """The run's generator of that name, seeded by `seed_for(purpose)`; its state is part of checkpoints."""

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Say how far `fit` is. Cheap: call it every step."""

    def log(self, **values: float | int | str) -> None:
        """Append one record to the run's history (`history.jsonl`); rewound when a checkpoint is loaded."""

    def figure(self, name: str, svg: str, caption: str, data: str | None = None) -> None:
        """Keep a figure of the fit as `figures/NAME.svg`; the HTML leaderboard shows it. Again under a name: replaced.

        name: lower-case letters, digits, - and _. svg: the text of an SVG image of less than 2 MB, without scripts and
        without references to anything outside of itself. caption: plain text, what is to be seen. data: the numbers
        behind it as CSV text with a header, kept as `figures/NAME.csv`.

        Raises:
            PluginError: it is none of this.
        """


class Method(ABC):
    """A way to get from data and a network to a posterior over the network's weights. A plugin writes one.

    The module that the entry point names should import nothing heavy: import torch inside `fit`, or keep the
    machinery in a second module.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when its numbers change for equal settings."""
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    preload: ClassVar[tuple[str, ...]] = ()
    """Slow modules that runs with this method import; a launcher may import them once for all its workers."""

    reference: ClassVar[bool] = False
    """Whether its predictive is what the other rows of a table are compared with (`agreement`, `tv`), unless the study
    names another: the gold standard, where it can be had."""

    parallel: ClassVar[bool] = False
    """Whether `fit` can be run by several processes at once, each on its share of every batch, so that all of them end
    with the same weights: see `RunContext.team`. The setting `devices` above 1 is refused for the others."""

    def needs(self, config: Any) -> tuple[Need, ...]:
        """Runs to start from, the base network first. Empty: the method trains from initialisation."""
        return ()

    def companions(self, config: Any) -> tuple[Need, ...]:
        """Rows without which this one would be misread (a control); a study that has this row gets them as well."""
        return ()

    def settled(self, config: Any, task: TaskInfo, network: Callable[[], nn.Module]) -> Any:
        """The settings with everything decided that depends on task and network. Called while planning; the run's
        identity holds what comes back, and settled settings come back as they are.

        network: builds the architecture without memory for its weights (meta device). It imports torch: call it only
        where something is left to decide.
        """
        return config

    def resources(self, config: Any) -> Resources:
        """What a run of this method asks of a cluster, where it differs from others: a method that hardly computes
        needs no GPU. A task, and a study, may say otherwise."""
        return Resources()

    def title(self, config: Any, needed: Sequence[Need]) -> str:
        """What tables call the method with these settings; `needed`: its needs, settled. The name, unless the same
        settings cover what readers would want told apart."""
        return self.name

    @abstractmethod
    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> Posterior:
        """Learn the posterior. Must be deterministic given the seeds of `ctx`, and resumable bit for bit."""

    @abstractmethod
    def posterior_type(self) -> type[Posterior]:
        """The class whose `decode` reads what the fitted posterior's `encode` wrote."""


@dataclass(frozen=True)
class TaskInfo:
    """Shapes and sizes of a task, known before any data is loaded."""

    input_shape: tuple[int, int, int]
    n_classes: int
    n_train: int
    n_val: int
    n_test: int


class Task(ABC):
    """A data set with a fixed split. `load` is called per split, so that a method's process never holds test data.

    A task that reads files says which by `data`; the suite has checked them whenever another method is called.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    Config: ClassVar[type[Config]] = Config
    preload: ClassVar[tuple[str, ...]] = ()
    """Slow modules that runs with this task import; a launcher may import them once for all its workers."""

    @abstractmethod
    def info(self, config: Any) -> TaskInfo:
        """Shapes and sizes, cheap (called while planning)."""

    @abstractmethod
    def fingerprint(self, config: Any) -> str:
        """A hex digest of the data and its split; part of the run's identity. Called while planning: keep it fast."""

    @abstractmethod
    def load(self, config: Any, split: SplitName) -> Split | None:
        """One split, on the CPU; None for a validation split that the task does not have."""

    def resources(self, config: Any) -> Resources:
        """What runs on these data ask of a cluster: GPUs for large images, CPUs that decode them, memory for them."""
        return Resources()

    def true_log_probs(self, config: Any, inputs: Tensor) -> Tensor | None:
        """Exact log p(y | x), float64 (n, K), for tasks whose law is known; else None."""
        return None

    def data(self, config: Any) -> Sequence[DataSet]:
        """The data sets below the data root that `info`, `fingerprint`, `load` and `ood` read with these settings.
        Cheap (called while planning)."""
        return ()

    def ood(self, config: Any) -> Mapping[str, Tensor | Inputs]:
        """Named sets of inputs (m, C, H, W), float32 on the CPU, that belong to none of the classes, in the
        normalisation of the test set. Every prediction is scored on how well it tells them from the test set."""
        return {}

    def corruptions(self, config: Any) -> Sequence[str]:
        """Names of the ways in which test data can be corrupted, each at the severities 1 to 5, mild to severe; none
        unless the task has such a suite. A study asks for it by `protocol: {shift: [1, 3, 5]}`. Cheap."""
        return ()

    def corrupted(self, config: Any, corruption: str, severity: int) -> Split:
        """Test examples with their labels, corrupted; on the CPU. The same examples at every corruption and severity:
        all of the test set, or a fixed part of it."""
        raise NotImplementedError(f"task '{self.name}' names corruptions and does not define `corrupted`")

    def corruption_data(self, config: Any) -> Sequence[DataSet]:
        """The data sets that `corrupted` reads. Cheap."""
        return ()

    def corruption_fingerprint(self, config: Any) -> str:
        """A hex digest of what `corrupted` adds to the data, part of the identity of runs under shift; that of
        `corruption_data` unless overridden, as by a suite that is computed. Called while planning: keep it fast."""
        return fingerprint_of(self.corruption_data(config))

    def input_range(self, config: Any) -> tuple[Tensor, Tensor] | None:
        """Per-channel values (C,) of black and of white, the lowest and the highest legal pixel, in the normalisation
        of the test set. Attacks stay between them, and their strength is a fraction of white - black.

        None: the inputs have no bounds, and the task cannot be attacked. Called while planning a study with attacks.
        """
        return None

    def data_set(self, name: str) -> DataSet | None:
        """The data set of that name where `data` and `corruption_data` of the default settings do not list it, so that
        `bnnbench data prepare NAME` finds it; None when this task knows none such. Cheap, and raises for no name."""
        return None


class NetworkFamily(ABC):
    """A family of architectures behind one registered name: `wrn` builds `wrn-16-4`, `timm` builds `timm:NAME`."""

    version: ClassVar[int] = 1
    forms: ClassVar[str]
    """The legal spellings, for help and error messages: `wrn-DEPTH-WIDTH, depth 6n+4, e.g. wrn-16-4`."""

    Config: ClassVar[type[Config]] = Config
    """Settings of a network beside its name: `networks: [{resnet50: {pretrained: true}}]`. None by default."""
    preload: ClassVar[tuple[str, ...]] = ()
    """Slow modules that runs with this family import; a launcher may import them once for all its workers."""

    @abstractmethod
    def check(self, network: str) -> None:
        """Raise ConfigError when `network` is not a legal spelling. Cheap (called while planning)."""

    @abstractmethod
    def build(self, network: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
        """The network, mapping inputs (n, C, H, W) to logits (n, K); initialised from torch's global generator,
        which the suite seeds and restores around the call."""

    def data(self, network: str, config: Any, input_shape: tuple[int, int, int]) -> Sequence[DataSet]:
        """The files below the data root that `settled` and `start` read with these settings. Cheap (while planning)."""
        return ()

    def settled(self, network: str, config: Any, input_shape: tuple[int, int, int]) -> Any:
        """The settings with everything decided that depends on the machine: weights that a path names become weights
        that a digest names. Called while planning; the run's identity holds what comes back."""
        return config

    def start(self, network: str, config: Any, built: nn.Module) -> Weights:
        """Weights that replace those of the freshly initialised network `built`, by name, all of them or some; none
        unless the settings ask for it. Never called on the way from bytes to predictions."""
        return {}

    def data_set(self, name: str) -> DataSet | None:
        """The data set of that name (the files of pretrained weights), so that `bnnbench data prepare NAME` finds it;
        None when this family knows none such. Cheap, and raises for no name."""
        return None

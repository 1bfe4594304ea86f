"""A cluster's habits in one YAML file: partition, account, how it spells GPUs, time limits, what jobs set up first.

`slurm.profile_files` finds and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from benchmark import Config, Resources
from slurm.minutes import parse_minutes

Minutes = Annotated[int, BeforeValidator(parse_minutes)]
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f]+$", coerce_numbers_to_str=True)]

DECIDED = (  # options that the launcher decides per array; an override would make it lose its jobs
    *("array", "dependency", "error", "job_name", "nodes", "ntasks", "ntasks_per_node", "open_mode", "output"),
    *("requeue", "signal", "time"),
)
OURS = {  # what Slurm and submitit call it -> what a profile does
    **dict.fromkeys(("time", "timeout_min", "time_limit"), "minutes"),
    **dict.fromkeys(("mem", "mem_gb", "memory"), "memory_gib"),
    **dict.fromkeys(("cpus_per_task", "threads"), "cpus"),
    **dict.fromkeys(("gres", "gpus_per_node", "gpus_per_task"), "gpus, with gpu_option and gpu_type"),
    **dict.fromkeys(("array_parallelism", "workers"), "max_parallel"),
    **dict.fromkeys(("signal_delay_s", "margin"), "margin_s"),
}


def _plain_option(name: str) -> str:
    return name.strip().lstrip("-").replace("-", "_")


class Profile(Config):
    """Settings of the jobs of one cluster; what a run asks for itself comes over them."""

    partition: Line | None = Field(None, description="default: the cluster's default partition")
    account: Line | None = Field(None, description="who pays")
    qos: Line | None = Field(None, description="quality of service")
    constraint: Line | None = Field(None, description="features of nodes: a100&ib")

    gpus: int = Field(0, ge=0, le=64, description="GPUs of one run")
    gpu_option: Literal["gres", "gpus_per_node"] = Field("gres", description="gres: gpu:2, or gpus-per-node: 2")
    gpu_type: Line | None = Field(None, description="a100: gres gpu:a100:2, or gpus-per-node a100:2")
    cpus: int = Field(1, ge=1, description="CPU cores of one run")
    memory_gib: float | None = Field(None, gt=0, description="main memory of one run, GiB; default: the cluster's")

    minutes: Minutes = Field(120, description='time limit of one job, where earlier runs tell none: 90, "90m" or "6h"')
    max_minutes: Minutes | None = Field(None, description="the longest limit the partition takes; no job asks for more")
    margin_s: int | None = Field(
        None, ge=1, description="seconds before the limit when a job saves; default: 120 or more"
    )
    signal: Literal["USR1", "USR2"] | None = Field(
        None, description="that announces the end; default: submitit's, USR2"
    )

    max_parallel: int | None = Field(None, ge=1, description="jobs of one launch that run at a time; default: no cap")
    max_queued: int | None = Field(
        None, ge=1, description="jobs of the user in the queue; default: until sbatch refuses"
    )
    max_array_size: int | None = Field(None, ge=2, description="elements of one array; default: what the cluster says")
    pack: int = Field(1, ge=1, description="runs below ten minutes that share a job, one after another")

    use_srun: bool = Field(True, description="false where srun does not work inside jobs: no signal reaches a job then")
    srun_args: tuple[Line, ...] = Field((), description="further options of srun: --mpi=none")
    setup: tuple[str, ...] = Field((), description="shell lines before the command: modules, conda")
    python: str | None = Field(None, min_length=1, description="shell command that starts Python, as in a container")
    keep_env: tuple[str, ...] = Field((), description="variables that jobs inherit though they look like a job's, * ok")
    mail_type: Line | None = Field(None, description="END,FAIL")
    mail_user: Line | None = Field(None, description="address for mail_type")
    additional_parameters: dict[str, bool | int | float | str] = Field(
        {}, description="any other option of sbatch, by its long name: {exclude: node7, exclusive: true}"
    )

    @field_validator("setup", mode="before")
    @classmethod
    def _lines(cls, given: Any) -> Any:
        return given.splitlines() if isinstance(given, str) else given

    @field_validator("setup")
    @classmethod
    def _shell_only(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if line.lstrip().startswith("#SBATCH"):
                raise ValueError(f"sbatch does not read '{line}' there: put it under additional_parameters")
        return lines

    @field_validator("additional_parameters", mode="before")
    @classmethod
    def _options(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        options: dict[str, Any] = {}
        for name, value in given.items():
            plain = _plain_option(str(name))
            if plain in DECIDED:
                ours = {**OURS, "signal": "signal and margin_s"}.get(plain)
                hint = f"the profile's {ours} says it" if ours else "it cannot be given"
                raise ValueError(f"'{name}' is written by the launcher: {hint}")
            if len(plain) < 2:
                raise ValueError(f"'{name}' is not a long name of an sbatch option: partition, not p")
            if plain in options:
                raise ValueError(f"'{name}' is given twice")
            if value is None or value is False or (isinstance(value, str) and not value.isprintable()):
                # sbatch would get the text 'None' or 'False'
                raise ValueError(f"'{name}' has the value {value!r}: true for an option without a value, else one line")
            options[plain] = value
        return options

    @property
    def resources(self) -> Resources:
        """What a run gets that asks for nothing."""
        return Resources(gpus=self.gpus, cpus=self.cpus, memory_gib=self.memory_gib, minutes=self.minutes)

"""Slurm: its commands, its version, whether its controller answers. Needed only to submit to a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmark.doctor.finding import Finding, output_of

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol")
UNCONFIGURED = ("resolve_ctls_from_dns_srv", "establish a configuration source")
"""What the commands say where there is neither a slurm.conf nor a cluster that hands one out."""


def slurm(_results: Path) -> Iterator[Finding]:
    """Nothing of it is optional; a part of it is not."""
    there = [name for name in COMMANDS if shutil.which(name)]
    absent = [name for name in COMMANDS if name not in there]
    if not there:
        mend = "on a cluster, run this on a login node, or load its module (module load slurm)"
        yield Finding("slurm", "optional", "not on this machine; only needed to submit runs to a cluster", mend)
        return
    if absent:
        text = f"{', '.join(there)} found in {Path(str(shutil.which(there[0]))).parent}, and no {', '.join(absent)}"
        yield Finding("slurm", "missing", text, "install the Slurm client commands, or add their folder to PATH")
        return
    try:
        version = output_of("sbatch", "--version")
        answer = output_of("scontrol", "ping")
    except RuntimeError as error:
        if any(sign in str(error) for sign in UNCONFIGURED):
            text = "its commands are installed, and this machine belongs to no cluster (no slurm.conf)"
            yield Finding("slurm", "optional", text, "on a cluster, set SLURM_CONF or run this on a login node")
            return
        yield Finding("slurm", "missing", str(error), "ask the cluster's administrator; look at `scontrol ping`")
        return
    up = [line for line in answer.splitlines() if line.rstrip().endswith("UP")]
    if up:
        yield Finding("slurm", "well", f"{version}; {up[0].strip()}")
    else:
        text = f"{version}; no controller answers: {' '.join(answer.split()) or 'scontrol ping says nothing'}"
        yield Finding("slurm", "missing", text, "ask the cluster's administrator; look at `scontrol ping`")

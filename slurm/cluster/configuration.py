"""What a cluster is, kept in `cluster.json`, and the configuration files that follow from it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmark import ConfigError
from slurm.cluster.layout import Layout
from slurm.cluster.machine import free_port, is_free, node_name

PORTS = ("slurmctld", "slurmd", "slurmdbd", "mariadbd")


@dataclass(frozen=True)
class Description:
    """name: ClusterName. node: the only node, this machine. ports: TCP port of every daemon.

    settings: lines of slurm.conf besides or instead of the usual ones; None removes a line.
    password: of the database user `slurm`.
    """

    name: str
    node: str
    accounting: bool
    ports: Mapping[str, int]
    settings: Mapping[str, str | None] = field(default_factory=dict)
    password: str = field(default="", repr=False)


def describe(layout: Layout, accounting: bool, settings: Mapping[str, str | None]) -> Description:
    """The cluster of this folder: the one that was there before, with its ports if they are free, else a new one.

    Raises ConfigError when the folder's cluster was made with another accounting.
    """
    earlier = _read(layout)
    known: dict[str, int] = dict(earlier.ports) if earlier else {}
    ports: dict[str, int] = {}
    for daemon in PORTS:
        if daemon in known and is_free(known[daemon]):  # job steps that outlived their daemons know the old ports
            ports[daemon] = known[daemon]
        else:
            ports[daemon] = free_port({*known.values(), *ports.values()})
    if earlier is None:
        name = f"bnn{ports['slurmctld']}"
        return Description(name, node_name(), accounting, ports, dict(settings), secrets.token_hex(16))
    if earlier.accounting != accounting:
        kind = "with" if earlier.accounting else "without"
        raise ConfigError(
            f"the cluster in {layout.folder} was made {kind} accounting; legal: to start it {kind} it again, "
            "or another folder"
        )
    return replace(earlier, ports=ports, node=node_name(), settings=dict(settings))


def write(layout: Layout, cluster: Description) -> None:
    """`cluster.json`, `slurm.conf`, and `slurmdbd.conf` with accounting."""
    _private(layout.description, json.dumps(asdict(cluster), indent=2) + "\n")
    layout.slurm_conf.write_text(slurm_conf(layout, cluster))
    if cluster.accounting:
        _private(layout.slurmdbd_conf, slurmdbd_conf(layout, cluster))  # slurmdbd refuses any other mode


def slurm_conf(layout: Layout, cluster: Description) -> str:
    """The text of slurm.conf (slurm.conf(5)). Limits and waiting times are short: it is for tests."""
    lines: dict[str, str | None] = {
        "ClusterName": cluster.name,
        "SlurmctldHost": f"{cluster.node}(127.0.0.1)",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "SlurmctldPort": str(cluster.ports["slurmctld"]),
        "SlurmdPort": str(cluster.ports["slurmd"]),
        "StateSaveLocation": str(layout.state),
        "SlurmdSpoolDir": str(layout.spool),
        "SlurmctldPidFile": str(layout.run / "slurmctld.pid"),
        "SlurmdPidFile": str(layout.run / "slurmd.pid"),
        "SlurmctldLogFile": str(layout.log_of("slurmctld")),
        "SlurmdLogFile": str(layout.log_of("slurmd")),
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SchedulerType": "sched/backfill",
        "ProctrackType": "proctrack/linuxproc",  # control groups are rarely writable in a container
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "MailProg": "/bin/true",
        "SlurmdParameters": "config_overrides",  # a machine with less than the node's line says is not drained
        "ReturnToService": "2",
        "KillWait": "5",
        "MinJobAge": "30",
        "MaxArraySize": "1001",
        "JobRequeue": "1",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SlurmctldParameters": "preempt_send_user_signal",
        **_accounting_lines(cluster),
        **cluster.settings,
    }
    text = [f"{key}={value}" for key, value in lines.items() if value is not None]
    return "\n".join([*text, *_node_and_partitions(cluster.node)]) + "\n"


def slurmdbd_conf(layout: Layout, cluster: Description) -> str:
    """The text of slurmdbd.conf (slurmdbd.conf(5))."""
    lines: dict[str, Any] = {
        "AuthType": "auth/munge",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": cluster.ports["slurmdbd"],
        "SlurmUser": "root",
        "PidFile": layout.run / "slurmdbd.pid",
        "LogFile": layout.log_of("slurmdbd"),
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": cluster.ports["mariadbd"],
        "StorageUser": "slurm",
        "StoragePass": cluster.password,
        "StorageLoc": "slurm_acct_db",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _accounting_lines(cluster: Description) -> dict[str, str | None]:
    if not cluster.accounting:
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": str(cluster.ports["slurmdbd"]),
        "JobAcctGatherType": "jobacct_gather/linux",
    }


def _node_and_partitions(node: str) -> list[str]:
    """Two partitions on one node: a job in `high` pushes one out of `low`, after 20 s of grace."""
    return [
        f"NodeName={node} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN",
        f"PartitionName=low Nodes={node} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20",
        f"PartitionName=high Nodes={node} MaxTime=INFINITE State=UP PriorityTier=10",
    ]


def _read(layout: Layout) -> Description | None:
    try:
        text = layout.description.read_text()
    except FileNotFoundError:
        return None
    try:
        return Description(**json.loads(text))
    except (ValueError, TypeError) as cause:
        raise ConfigError(
            f"{layout.description} cannot be read ({cause}): delete the folder {layout.folder} or take another one"
        ) from cause


def read(layout: Layout) -> Description:
    """The cluster of this folder. Raises ConfigError when there is none."""
    found = _read(layout)
    if found is None:
        raise ConfigError(
            f"no cluster in {layout.folder}; make one with: python -m slurm.cluster start --dir {layout.folder}"
        )
    return found


def _private(path: Any, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)

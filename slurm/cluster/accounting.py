"""The accounting of a cluster: a MariaDB of its own and slurmdbd before it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import rmtree

from benchmark import EnvironmentProblem
from slurm.cluster.configuration import Description
from slurm.cluster.daemons import Daemon, answers, spawn, tail
from slurm.cluster.layout import Layout
from slurm.cluster.machine import clean_environment

_FIX = "Stop the cluster, delete its folder and start it again."


def start_database(layout: Layout, cluster: Description, environment: dict[str, str]) -> Daemon:
    """A running mariadbd on this cluster's folder, port and socket, with the database and user that slurmdbd needs."""
    options = _options(layout, cluster)
    if not layout.database.is_dir():
        _install(layout, options, environment)
    daemon = spawn(
        ["mariadbd", f"--defaults-file={options}"],
        log=layout.log_of("mariadbd"),
        record=layout.record_of("mariadbd"),
        environment=environment,
    )
    client = ["mariadb", f"--defaults-file={options}"]
    daemon.wait_until(lambda: answers([*client, "-e", "select 1"], {}) is not None, 60, _FIX)
    _run([*client, "-e", _grants(cluster)], layout, environment)
    return daemon


def start_slurmdbd(layout: Layout, cluster: Description, environment: dict[str, str]) -> Daemon:
    """A running slurmdbd that knows this cluster: slurmctld registers with it, so it must be there first."""
    daemon = spawn(
        ["slurmdbd", "-D"],
        log=layout.log_of("slurmdbd"),
        record=layout.record_of("slurmdbd"),
        environment=environment,
    )
    listing = ["sacctmgr", "-n", "-P", "list", "cluster", "format=Cluster"]
    daemon.wait_until(lambda: answers(listing, environment) is not None, 60, _FIX)
    if cluster.name not in (answers(listing, environment) or "").split():
        _run(["sacctmgr", "-i", "add", "cluster", cluster.name], layout, environment)
    return daemon


def _options(layout: Layout, cluster: Description) -> Path:
    """MariaDB's option file: nothing of /etc/mysql is read. It runs as root, as all of this cluster does, so that any
    folder will do; root enters by the socket, the user `slurm` by its password from this machine only."""
    path = layout.run / "mysql.cnf"
    path.write_text(f"""[mariadbd]
user=root
datadir={layout.database}
socket={layout.database_socket}
port={cluster.ports["mariadbd"]}
bind-address=127.0.0.1
pid-file={layout.run}/mariadbd.pid
skip-name-resolve
performance_schema=OFF
innodb_buffer_pool_size=64M
innodb_log_file_size=32M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=2
[client]
user=root
socket={layout.database_socket}
""")
    return path


def _install(layout: Layout, options: Path, environment: dict[str, str]) -> None:
    """An empty database, made beside its place and renamed, so that a start that was killed leaves no half of one."""
    new = layout.database.with_suffix(".new")
    rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    _run(
        ["mariadb-install-db", f"--defaults-file={options}", f"--datadir={new}", "--user=root", "--skip-test-db"],
        layout,
        environment,
    )
    new.rename(layout.database)


def _grants(cluster: Description) -> str:
    user = "'slurm'@'127.0.0.1'"
    return (
        "create database if not exists slurm_acct_db;"
        f"create or replace user {user} identified by '{cluster.password}';"
        f"grant all on slurm_acct_db.* to {user};"
    )


def _run(command: list[str], layout: Layout, environment: dict[str, str]) -> None:
    log = layout.log_of("accounting")
    with open(log, "ab") as out:
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**clean_environment(), **environment},
                timeout=120,
                check=True,
            )
        except subprocess.SubprocessError as cause:
            raise EnvironmentProblem(f"{command[0]} failed. {_FIX}\nThe end of {log}:\n{tail(log)}") from cause

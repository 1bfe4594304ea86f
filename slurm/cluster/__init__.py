"""A private Slurm of one node on this machine, from Debian's packages: for tests, and for trying things out.

All of it lives in one folder and on free ports of its own, so several run side by side and beside a Slurm of the
machine. It needs root, as in a container; `slurm/install_debian.sh` installs the packages. From Python:

    with one_node_cluster(Path("/tmp/cluster")) as cluster:
        print(cluster.run("sinfo").stdout)

and from a shell:

    python -m slurm.cluster start --dir /tmp/cluster
    eval "$(python -m slurm.cluster env --dir /tmp/cluster)"
    sbatch --wait --wrap "echo hello"
    python -m slurm.cluster stop --dir /tmp/cluster
"""

from slurm.cluster.layout import Layout
from slurm.cluster.lifecycle import Cluster, attach, one_node_cluster, start, status, stop
from slurm.cluster.machine import why_not

__all__ = ["Cluster", "Layout", "attach", "one_node_cluster", "start", "status", "stop", "why_not"]

#!/bin/sh
# Installs what a one-node Slurm needs from Debian's (or Ubuntu's) packages; nothing is started and nothing configured.
# Usage, as root: slurm/install_debian.sh [--accounting]
set -eu

packages="slurm-wlm munge"
case "${1-}" in
    "") ;;
    --accounting) packages="$packages slurmdbd mariadb-server" ;;
    *)
        echo "install_debian.sh: unknown argument '$1'; legal: --accounting" >&2
        exit 2
        ;;
esac

if [ "$(id -u)" -ne 0 ]; then
    echo "install_debian.sh: packages are installed as root; type: sudo $0 $*" >&2
    exit 3
fi
if ! command -v apt-get >/dev/null; then
    echo "install_debian.sh: no apt-get here; install by hand: $packages" >&2
    exit 3
fi

missing=""
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "installed already: $packages"
    exit 0
fi

# The packages' own services must not start: the cluster brings its daemons, with its own ports and folders. A policy
# of the machine that exists already is left as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086  # a list of names
apt-get install -y -q --no-install-recommends $missing
echo "installed:$missing"

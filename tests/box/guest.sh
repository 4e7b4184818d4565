#!/bin/sh
# Turns this process into one guest. Runs in a mount namespace of its own, so every mount goes with the last process.
set -eu

directory=$1 # holds machine/ (files of this instance alone), disk/ and root/ (both empty)
rootfs=$2    # what all guests share, read-only
name=$3
cgroup=$4

echo 0 >"$cgroup/cgroup.procs" # fails, and nothing boots, when the box has been cleaned away meanwhile

mount -t tmpfs -o mode=0755 tmpfs "$directory/disk"
mkdir "$directory/disk/upper" "$directory/disk/work"
mount -t overlay \
	-o "lowerdir=$directory/machine:$rootfs,upperdir=$directory/disk/upper,workdir=$directory/disk/work" \
	overlay "$directory/root"

# systemd-nspawn insists on this directory being a mount of its own where the machine runs no systemd
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/systemd/nspawn

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 TERM=dumb
# A cgroup with processes of its own could have none below it: so the loop stays outside of the guest's.
mkdir "$cgroup/power"
echo 0 >"$cgroup/power/cgroup.procs"
while :; do
	status=0
	(
		echo 0 >"$cgroup/cgroup.procs"
		exec systemd-nspawn --quiet --boot --register=no --keep-unit --console=read-only \
			--resolv-conf=off --timezone=off --link-journal=no \
			--machine="$name" --directory="$directory/root" </dev/null
	) || status=$?
	[ "$status" -eq 133 ] || exit "$status" # that is how it says that the guest wants to boot again
	echo 'the guest boots again'
done

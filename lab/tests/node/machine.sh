# A machine in namespaces: systemd is its init, its files are this machine's beneath a layer in memory, its network is its own.
# $1: a folder for it; $2: programs, seen as /run/barewire-bin there. Ends, and takes its cgroup away, when init ends.
set -eu
folder=$1 programs=$2
if [ "${3-}" != inside ]; then
    # systemd gets a hierarchy below a cgroup of its own, and no controllers: the machine's own are somebody else's.
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then hierarchy=/sys/fs/cgroup; else hierarchy=/sys/fs/cgroup/systemd; fi
    group=$hierarchy/barewire-machine-$$
    mkdir "$group"
    sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
        unshare --mount --pid --fork --net --uts --ipc --cgroup --kill-child sh "$0" "$folder" "$programs" inside || true
    # Processes of a namespace whose init has ended are about to end.
    tries=100
    until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || [ $((tries -= 1)) = 0 ]; do sleep 0.05; done
    exit 0
fi
mount --make-rprivate /
mount -t tmpfs -o size=400m machine "$folder"
mkdir "$folder/changes" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/changes,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"
mount -t proc proc proc
# networkd waits for udev where it may write there.
mount -t sysfs -o ro sysfs sys
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 run run
mount -t tmpfs tmp tmp
mount -t tmpfs -o mode=755 dev dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/shm dev/pts
ln -s pts/ptmx dev/ptmx
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup sys/fs/cgroup
else
    mount -t tmpfs cgroup sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
    head -n 1 proc/cgroups >run/no-controllers
    mount --bind run/no-controllers proc/cgroups
fi
mkdir run/barewire-bin
mount --bind "$programs" run/barewire-bin
# Nothing of this machine's services, and nothing that would change the kernel that all share.
rm -rf etc/systemd/system etc/systemd/network etc/systemd/networkd.conf.d etc/NetworkManager etc/cni opt/cni
mkdir -p etc/systemd/system
for unit in systemd-sysctl systemd-modules-load systemd-remount-fs systemd-udevd systemd-udev-trigger systemd-random-seed \
    systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-sysusers systemd-update-utmp kmod-static-nodes; do
    ln -s /dev/null "etc/systemd/system/$unit.service"
done
for unit in dev-hugepages dev-mqueue sys-kernel-debug sys-kernel-tracing sys-fs-fuse-connections proc-sys-fs-binfmt_misc; do
    ln -s /dev/null "etc/systemd/system/$unit.mount"
done
ln -s /dev/null etc/systemd/system/proc-sys-fs-binfmt_misc.automount
exec chroot . /usr/bin/env -i container=barewire PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_PROC_CMDLINE='systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1' \
    /usr/lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=false

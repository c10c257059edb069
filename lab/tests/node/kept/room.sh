# A room for other people's services beside a node: this machine's files below a layer in memory, with a package that is not installed.
# What they write stays in it, and they end with it. $1: a folder for it; $2: the package, unpacked.
set -eu
folder=$1 package=$2
mount -t tmpfs -o size=200m room "$folder"
mkdir "$folder/changes" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/changes,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"
# Nothing of what this machine's own services are told.
rm -rf etc/firewalld etc/docker
cp -a "$package/etc" "$package/usr" .
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs -o mode=755 run run
mount -t tmpfs tmp tmp
# Modules are loaded and unloaded for all of the machine.
[ ! -e usr/bin/kmod ] || mount --bind usr/bin/true usr/bin/kmod
mkdir run/dbus run/room
exec chroot . /usr/bin/sleep infinity

# The first process of a chroot in the stock Debian: a view of the tree $1 that takes writes, with the
# folder $2/payload in it and $2/room for what is large. Starts libvirt there and runs the rest. All
# that runs here, and all that is mounted, goes with this process.
set -eu
trap 'exit 143' TERM
tree=$1 folder=$2
shift 2
cd "$folder"
mkdir own room
mount -t tmpfs -o mode=755 own own
mkdir own/upper own/work own/root
# By relative names: these options have no way to quote a comma or a colon.
ln -s "$tree/root" own/lower
mount -t overlay -o lowerdir=own/lower,upperdir=own/upper,workdir=own/work overlay own/root
cd own/root
# Devices of its own: libvirt moves and removes what it finds there, and the kernel shows one /dev to
# all. No KVM: where QEMU has no use for one that is there, libvirt 9.0 asks it anew what it can at
# every call. No cgroups either: they are the host's.
mount -t tmpfs -o mode=755 dev dev
for node in null zero full random urandom tty loop-control btrfs-control userfaultfd; do
    [ ! -e /dev/$node ] || cp -a /dev/$node dev/
done
for number in $(seq 0 127); do mknod -m 660 dev/loop$number b 7 $number; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 run run
mount --bind "$folder/payload" payload
mount --bind "$folder/room" var/tmp

export PATH=/payload/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
export VITRIFY_LAB=stock VITRIFY_BIN=/payload/bin/vitrify VITRIFY_WITNESS=/payload/witness
unset TMPDIR XDG_CACHE_HOME
log=var/log/libvirtd.log
chroot . virtlogd >$log 2>&1 &
chroot . libvirtd >>$log 2>&1 &
tries=300
until chroot . virsh -q -c qemu:///system version >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "libvirt does not answer; it said:"; cat $log; exit 1; } >&2
    sleep 0.1
done
status=0
chroot . "$@" & wait $! || status=$?
[ $status -eq 0 ] || { echo "libvirt said:"; tail -n 20 $log; } >&2
exit $status

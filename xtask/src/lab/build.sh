# Builds the ZFS machine in the folder $1, which holds key.pub, and moves it to $2 when it is done.
# $3: release; $4: suite to prefer, or nothing; $5: packages, with commas; the rest: source definitions.
set -eu
draft=$1 place=$2 release=$3 prefer=$4 packages=$5
shift 5
cd "$draft"

mmdebstrap --variant=minbase --mode=root --format=directory \
    --aptopt='APT::Install-Recommends "false"' \
    ${prefer:+--aptopt="APT::Default-Release \"$prefer\""} \
    --include="$packages" \
    --customize-hook='chroot "$1" systemctl enable systemd-networkd' \
    "$release" root "$@"

echo lab >root/etc/hostname
echo '127.0.0.1 localhost lab' >root/etc/hosts
# The payload is mounted once the machine runs: on a busy host it may be late, and systemd gives up.
cat >root/etc/fstab <<'END'
/dev/vda      /        ext4 defaults   0 1
LABEL=payload /payload ext4 ro,noauto  0 0
END
cat >root/etc/systemd/network/10-lab.network <<'END'
[Match]
Name=en* eth*
[Network]
DHCP=yes
END
mkdir -m 755 root/payload
mkdir -m 1777 root/scratch
mkdir -p -m 700 root/root/.ssh
install -m 600 key.pub root/root/.ssh/authorized_keys

cp root/boot/vmlinuz-* vmlinuz
cp root/boot/initrd.img-* initrd
sed 's/^/lab /' root/etc/ssh/ssh_host_ed25519_key.pub >known_hosts
# What is not written here is written at each boot anew: the inodes' tables.
truncate --size=32G disk.ext4
mkfs.ext4 -q -N 262144 -E lazy_itable_init=0 -d root disk.ext4
rm -rf --one-file-system root
chown --reference=. vmlinuz initrd known_hosts disk.ext4
chmod 644 vmlinuz initrd known_hosts disk.ext4
mv -T "$draft" "$place"

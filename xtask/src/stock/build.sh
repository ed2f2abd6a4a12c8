# Builds the stock Debian in the folder $1 and moves it to $2 when it is done.
# $3: release; $4: nothing; $5: packages, with commas; the rest: source definitions.
set -eu
draft=$1 place=$2 release=$3 packages=$5
shift 5
cd "$draft"

mmdebstrap --variant=minbase --mode=root --format=directory \
    --aptopt='APT::Install-Recommends "false"' \
    --include="$packages" \
    "$release" root "$@"

# AppArmor is the host's, and its profiles know nothing of the chroot.
echo 'security_driver = "none"' >>root/etc/libvirt/qemu.conf
mkdir root/payload
mv -T "$draft" "$place"

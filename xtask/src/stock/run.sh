# Runs the script $1 in namespaces of its own, with the rest. Whether QEMU may use userfaultfd is said
# for the whole kernel: whatever a test makes of that, it is put back.
allowed=/proc/sys/vm/unprivileged_userfaultfd
before=$(cat "$allowed")
# The signal interrupts the first wait. What runs inside ends by it too.
trap : TERM
unshare --mount --pid --net --ipc --fork sh -c "$@" & inside=$!
wait "$inside"; status=$?
while kill -0 "$inside" 2>/dev/null; do wait "$inside"; status=$?; done
[ "$(cat "$allowed")" = "$before" ] || echo "$before" >"$allowed"
exit "$status"

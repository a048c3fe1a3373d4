#!/bin/bash
# PID 1 of one host of two_hosts.py, in namespaces of its own (mount, pid, net, uts, ipc):
#   two_hosts.sh NAME UPPER DISK NPUS SHARED...
# UPPER   folder on a tmpfs: `root` is what this host has besides the machine's own files, `docker`
#         is /var/lib/docker, `containers` podman's /var/lib/containers
# DISK    folder on a disk: what is large, and what outlives a reboot
# SHARED  folders of the machine that the host sees as they are, and cannot write to
# It says `pid N`, N as the machine counts, then `ready`; and it ends when its input does, that is
# when whoever started it ends, by whatever death. The kernel then ends every process of the host,
# and with the last one go its mounts and its network.
set -eu
read -r pid _ </proc/self/stat # the machine's /proc still
echo "pid $pid"
name=$1 upper=$2 disk=$3 npus=$4
shift 4

# The whole root is an overlay over the machine's: the host may write anywhere. The upper layer must
# lie on another filesystem: a layer that is inside another one is refused (ELOOP).
root=$disk/mnt
mkdir -p "$root" "$upper/root" "$upper/work"
mount -t overlay -o "lowerdir=/,upperdir=$upper/root,workdir=$upper/work" host "$root"
rm -rf "$disk/tmp"
for place in root home tmp var/tmp var/log data; do
  mkdir -p "$disk/$place" "$root/$place"
  mount --bind "$disk/$place" "$root/$place"
done
# In memory too, for it is thousands of small files: half a minute to remove from a busy disk.
# Docker's overlay2 cannot lie on an overlay, so it is no part of the root.
for place in docker containers; do
  mkdir -p "$upper/$place" "$root/var/lib/$place"
  mount --bind "$upper/$place" "$root/var/lib/$place"
done
chmod 1777 "$root/tmp" "$root/var/tmp"
mount -t tmpfs -o mode=755 run "$root/run"
mkdir -p "$root/run/sshd" "$root/run/lock"

# Not the machine's /dev: its nodes are not ours to add to. A virtual NPU is another /dev/null.
mount -t tmpfs -o mode=755 dev "$root/dev"
node() { mknod -m 666 "$root/dev/$1" c "$2" "$3"; }
node null 1 3 && node zero 1 5 && node full 1 7 && node random 1 8 && node urandom 1 9
node tty 5 0
if [ "$npus" -gt 0 ]; then
  for device in davinci_manager devmm_svm hisi_hdc $(seq -f 'davinci%.0f' 0 $((npus - 1))); do
    node "$device" 1 3
  done
fi
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,size=64G shm "$root/dev/shm" # a limit, no reservation
mount -t mqueue mqueue "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"

# A new sysfs, because /sys/class/net is of the network namespace it was mounted in.
mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
for path in "$@"; do
  mkdir -p "$root$path"
  mount --bind -o ro "$path" "$root$path"
done

mkdir -p "$root/run/machine"
cd "$root"
pivot_root . run/machine
cd /
mount -t proc proc /proc # before this, umount finds no mounts
umount --lazy /run/machine
rmdir /run/machine
hostname "$name"
# What `doctor` asks for, as far as this machine goes: without CAP_SYS_RESOURCE, even root stops at
# the hard limit.
ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
ulimit -l unlimited 2>/dev/null || ulimit -l "$(ulimit -Hl)"

grep -q '^sshd:' /etc/passwd || echo 'sshd:x:65530:65534::/run/sshd:/usr/sbin/nologin' >>/etc/passwd
sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow # `!` would be a locked account, and refused
for service in /etc/two_hosts.d/*; do
  # Closed input: it is what keeps the host alive, and must not be held by anyone else.
  "$service" </dev/null >>"/var/log/${service##*/}.log" 2>&1 &
done
echo ready
exec >/dev/null
# Bash, not sh: it reaps the orphans that become children of PID 1 even while it reads.
while read -r _; do :; done

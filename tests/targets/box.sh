# A device made of namespaces: what `Box.start` runs in fresh ones. The first process of the device.
# usage: sh box.sh linux|phone SCRATCH
#
# linux: this machine's own files, copy-on-write, with empty /home, /root, /tmp, /data and /run
# phone: a phone's userland, by phone.sh
set -eu
kind=$1 scratch=$2
mount --make-rprivate /
mount -t tmpfs -o mode=755 box "$scratch"
root=$scratch/root
mkdir "$root"

case $kind in
linux)
  mkdir "$scratch/up" "$scratch/work"
  mount -t overlay -o "lowerdir=/,upperdir=$scratch/up,workdir=$scratch/work" box "$root"
  for name in home root tmp data run; do
    mkdir -p "$root/$name"
    mount -t tmpfs -o mode=755,size=96m box "$root/$name"
  done
  chmod 1777 "$root/tmp"
  ;;
phone)
  mount --bind "$root" "$root"
  sh "$(dirname "$0")/phone.sh" "$root" x86_64
  mount -t tmpfs -o mode=771,uid=2000,gid=2000,size=96m box "$root/data"
  ;;
esac

mkdir -p "$root/data/local/tmp" "$root/data/misc/adb" "$root/proc" "$root/dev" "$root/old"
touch "$root/data/misc/adb/adb_keys"
if [ "$kind" = phone ]; then chown -R 2000:2000 "$root/data/local"; else chmod 1777 "$root/data/local/tmp"; fi
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 box "$root/dev"
for name in null zero full random urandom tty; do
  touch "$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ip link set lo up
cd "$root"
pivot_root . old
umount -l /old
exec < /dev/null
echo ready
exec > /dev/null
# nothing to do but to bury orphans, as the first process of a system does
while :; do sleep 100000 & wait; done

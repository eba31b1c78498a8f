# A device made of namespaces: what `Box.start` runs in fresh ones. The first process of the device.
# usage: sh box.sh linux|phone SCRATCH
#
# linux: this machine's own files, copy-on-write, with empty /home, /root, /tmp, /data and /run
# phone: toybox and mksh for a userland, as on Android, and getprop; shared libraries are borrowed
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
  mkdir -p "$root/system/bin" "$root/usr/lib" "$root/data" "$root/etc"
  ln -s system/bin "$root/bin"
  for name in lib lib64; do
    [ -e "/$name" ] || continue
    [ -L "/$name" ] && ln -s "usr/$name" "$root/$name"
    mkdir -p "$root/usr/$name"
    mount --bind "/usr/$name" "$root/usr/$name"
  done
  cp "$(command -v toybox)" "$root/system/bin/toybox"
  cp "$(command -v mksh)" "$root/system/bin/sh"
  for applet in $(toybox); do
    case $applet in sh | toybox | su | login | init) ;; *) ln -sf toybox "$root/system/bin/$applet" ;; esac
  done
  rm -f "$root/system/bin/["
  printf 'shell:x:2000:2000:shell:/:/system/bin/sh\n' > "$root/etc/passwd"
  printf '#!/system/bin/sh\nwhile IFS== read -r key value; do\n  [ "$key" = "$1" ] && echo "$value"\ndone < /etc/props\n:\n' \
    > "$root/system/bin/getprop"
  chmod 755 "$root/system/bin/getprop"
  cat > "$root/etc/props" << PROPS
ro.product.manufacturer=Maker
ro.product.model=Phone 1
ro.soc.manufacturer=Foundry
ro.soc.model=S1000
ro.build.fingerprint=maker/phone/phone:14/ABC/1:user/release-keys
ro.build.version.release=14
ro.build.version.sdk=34
ro.product.cpu.abilist=x86_64
PROPS
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

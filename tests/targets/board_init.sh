#!/bin/busybox sh
# The first process of the arm64 board: a network, an SSH server, and two adbd, the board's at port
# 5555 and at 5556 one whose world is that of a phone.
/bin/busybox --install -s /busybox
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
for again in 1 2 3 4; do # until each module has met those that it needs
  for module in /modules/*.ko; do insmod "$module" 2> /dev/null; done
done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
/usr/sbin/sshd -f /etc/ssh/board_config
adbd=/usr/lib/android-sdk/platform-tools/adbd
ADBD_PORT=5555 setsid $adbd --device_banner=device < /dev/null > /dev/null 2>&1 &

phone=/run/phone
mkdir $phone
sh /phone.sh $phone arm64-v8a
mount -t tmpfs -o mode=771,uid=2000,gid=2000 data $phone/data
mkdir -p $phone/data/local/tmp $phone/proc $phone/sys $phone/dev
chown -R 2000:2000 $phone/data
mount -t proc proc $phone/proc
mount -t sysfs sys $phone/sys
mount --bind /dev $phone/dev
mount --bind /dev/pts $phone/dev/pts
chmod 666 /dev/ptmx
env -i ADBD_PORT=5556 PATH=/system/bin HOME=/ ANDROID_ROOT=/system ANDROID_DATA=/data \
  setsid /usr/sbin/chroot --userspec=2000:2000 --groups= $phone $adbd --device_banner=device \
  < /dev/null > /dev/null 2>&1 &
echo 'board: ready' > /dev/console
while :; do sleep 3600; done

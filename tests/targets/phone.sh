# A phone's userland: toybox and mksh, as on Android, and getprop; shared libraries are borrowed.
# usage: sh phone.sh ROOT ABI
set -eu
root=$1 abi=$2
mkdir -p "$root/system/bin" "$root/usr/lib" "$root/data/local/tmp" "$root/etc"
ln -s system/bin "$root/bin"
for name in lib lib64; do
  [ -e "/$name" ] || continue
  [ -L "/$name" ] && ln -s "usr/$name" "$root/$name"
  [ -e "/usr/$name" ] || continue
  mkdir -p "$root/usr/$name"
  mount --bind "/usr/$name" "$root/usr/$name"
done
cp "$(command -v toybox)" "$root/system/bin/toybox"
cp "$(command -v mksh)" "$root/system/bin/sh"
for applet in $(toybox); do
  case $applet in sh | toybox | su | login | init) ;; *) echo "$applet" ;; esac
done | (cd "$root/system/bin" && while read -r applet; do ln -sf toybox "$applet"; done)
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
ro.product.cpu.abilist=$abi
PROPS

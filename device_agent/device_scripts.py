"""Short scripts that run on a device: what is asked of it around files.

In the shell of any phone or board: mksh and toybox, dash and coreutils, busybox. Paths come as
arguments, never inside a script's text.
"""

# $@: folders, the best first. Makes ours in the first that can be written to, and tells what is
# under way there.
MEET = """
for tool in setsid sha256sum mkdir rm mv chmod tail; do
  command -v $tool >/dev/null || { echo "lacks $tool"; exit; }
done
umask 077
because=
for c in "$@"; do
  case $c in "~"/*) c=$HOME/${c#??};; esac
  if because=$(mkdir -p "$c/files" "$c/run" 2>&1) && [ -w "$c/run" ]; then
    echo "folder $c"
    cd "$c/run" && for name in *; do echo "left $name"; done
    exit
  fi
done
echo "because" $because
"""

# $1 our folder
LEFT = """
cd "$1/run" && for name in *; do echo "$name"; done
"""

# $1 our folder; free KiB in it
FREE_KIB = """
df -P -k "$1" | { read -r head; read -r disk size used free rest; echo "$free"; }
"""

# $1 folder, the others paths below it: no part of a path may be a link, which could lead elsewhere
LOOK = """
set -f
f=$1; shift
for below; do
  p=$f link=
  IFS=/
  for part in $below; do
    p=$p/$part
    if [ -L "$p" ]; then link=yes; break; fi
  done
  unset IFS
  if [ "$link" ]; then echo link
  elif [ -d "$p" ]; then echo folder
  elif [ ! -f "$p" ]; then echo absent
  else
    size=$(wc -c < "$p")
    hash=$(sha256sum < "$p")
    echo file $size ${hash%% *}
  fi
done
"""

# $1 the folder with what was sent; for each file its name there, where it belongs, sha256, mode.
# All are hashed by one process, since starting one takes longer; ends at the first that fails.
PLACE = """
cd "$1" || exit
shift
line='
'
names= i=0
for word; do
  [ $((i % 4)) != 0 ] || names="$names $word"
  i=$((i + 1))
done
hashes=$(sha256sum $names) || exit
while [ $# -gt 0 ]; do
  hash=${hashes%% *}
  hashes=${hashes#*"$line"}
  if [ "$hash" != "$3" ]; then rm -f "$1"; echo "sha256 $hash"; exit; fi
  [ -d "${2%/*}" ] || mkdir -p "${2%/*}" || exit
  [ "$4" = 644 ] || chmod "$4" "$1" || exit
  mv -f "$1" "$2" || exit
  echo placed
  shift 4
done
"""

# $1 our folder
CLEAN = """
rm -rf "$1" && echo gone
"""

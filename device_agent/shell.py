"""Command lines for a device's own shell, and what they print around a command's output.

A command that is started over a cable has to be told apart from the cable: a daemon that dies in
the middle of it looks like a command that ended well, and a host that goes away leaves it running.
So every command line carries

* a random token, with which the lines are marked that are ours: one at the beginning with the
  process group, and one at the end with the exit code. Output without the last was cut short;
* a session of its own (``setsid``), recorded in our folder, so that all of it can be killed over
  another connection;
* a watcher that reads the connection's end of stdin, on which nothing is ever sent: when it ends,
  since the host or the daemon is gone, the watcher kills the group.

They run in dash, mksh, bash and busybox, with toybox or coreutils.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nasdeploy.device_agent.process import MAX_LINE_BYTES, Output
from nasdeploy.errors import CommandFailed

# $1 token, $2 record; prints who it is, and becomes the command
_INNER = """
t=$1 f=$2; shift 2
b=; read -r b 2>/dev/null < /proc/sys/kernel/random/boot_id
read -r s < /proc/$$/stat
twentieth() { r=${20}; }
twentieth ${s##*) }
{ echo "$$ $r $b" > "$f.group"; } 2>/dev/null
echo "$t group $$ $r $b"
command -v "$1" >/dev/null || { echo "$t missing"; exit 127; }
exec "$@"
"""

# $1 token, $2 folder, $3 name of the record in it, $4 where stderr goes: split or file, $5 _INNER
_OUTER = """
t=$1 f=$2/$3 how=$4 inner=$5; shift 5
umask 077
trap : HUP  # a terminal that is closed must not end the watcher before the group
mkdir -p "${f%/*}" 2>/dev/null
exec 3<&0 4>&2 </dev/null 2>/dev/null
if [ "$how" = file ]; then
  { true > "$f.err"; } || { echo "$t unwritable"; exit 1; }
  exec 4>"$f.err"
fi
setsid sh -c "$inner" sh "$t" "$f" "$@" 2>&4 3<&- 4>&- &
g=$!
{ while read -r x; do :; done; kill -s KILL -- -$g || kill -s KILL $g; } <&3 3<&- >/dev/null 4>&- &
w=$!
exec 3<&-
wait $g
r=$?
kill -s KILL -- -$g
kill -s KILL $w  # mksh, just forked, takes a TERM and forgets it
trap "" PIPE
if [ "$how" = file ]; then echo "$t stderr"; tail -c 65536 "$f.err"; fi
rm -f "$f.group" "$f.err"
echo "$t end $r"
"""

# $1 record, $2 group, $3 start of its leader, $4 boot; without $2 they are read from the record.
# A number that was given to another process since then, or before a reboot, is left alone.
_KILL = """
f=$1 g=$2 s=$3 b=$4
exec 2>/dev/null
[ -n "$g" ] || read -r g s b < "$f.group" || g=none
now=; read -r now < /proc/sys/kernel/random/boot_id
twentieth() { r=${20}; }
ours=no
if read -r l < /proc/$g/stat; then
  twentieth ${l##*) }
  [ "$r" = "$s" ] && ours=yes
elif [ -n "$b" ] && [ "$b" = "$now" ]; then
  ours=yes
fi
i=0
while [ $ours = yes ] && kill -s KILL -- -$g && [ $i -lt 50 ]; do
  i=$((i + 1)); sleep 0.1 || sleep 1
done
rm -f "$f.group" "$f.err" "$f.part"
[ $i -lt 50 ]
"""

_PLAIN = """
t=$1 script=$2; shift 2
exec 3<&0 </dev/null
sh -c "$script" sh "$@"
echo "$t end $?"
"""

_GROUP = re.compile(r"group (\d{1,10}) (\d{1,20}) ?([0-9a-f-]{0,36})")
_SIGNALS = range(129, 193)


def new_token() -> str:
    """What no output has in it by chance."""
    return f"nasdeploy-{secrets.token_hex(12)}"


def command_line(argv: Sequence[str], *, token: str, folder: str, record: str, split: bool) -> str:
    """Run `argv` in a group of its own; every argument reaches it as it is.

    Args:
        folder: Where the record of the group is written, on the device.
        record: The name of the record.
        split: Whether the connection keeps stderr apart. Where it doesn't, stderr goes through a
            file, and its end comes after the command's last line.
    """
    where = "split" if split else "file"
    return shlex.join(["sh", "-c", _OUTER, "sh", token, folder, record, where, _INNER, *argv])


def plain_line(script: str, *args: str, token: str) -> str:
    """Run a short script of our own, marked at its end; it has no group and is not killed."""
    return shlex.join(["sh", "-c", _PLAIN, "sh", token, script, *args])


def kill_script(record: str, group: Group | None) -> tuple[str, ...]:
    """A script and its arguments that end a group and remove what is recorded of it."""
    known = (group.id, group.started, group.boot) if group else ("", "", "")
    return (_KILL, record, *known)


@dataclass(frozen=True, slots=True)
class Group:
    """A process group on the device, told apart from a later one of the same number."""

    id: str
    started: str
    boot: str


class Reply:
    """What comes back of a command line: our marks taken out, the rest handed to `output`.

    Attributes:
        group: The command's process group, once it has started.
        exit_code: None until the end mark has come; below 0 it is the signal that ended it.
        ended: Whether it was killed from here.
    """

    def __init__(self, token: str, output: Output, program: str) -> None:
        self.group: Group | None = None
        self.exit_code: int | None = None
        self.ended = False
        self.missing = False
        self.unwritable = False
        self._token = token.encode()
        self._output = output
        self._program = program
        self._line = bytearray()
        self._to_stderr = False

    def take(self, stream: int, chunk: bytes) -> None:
        """`stream` is 1 for stdout and 2 for stderr."""
        if stream == 2:
            self._output.take_stderr(chunk)
            return
        *lines, rest = (bytes(self._line) + chunk).split(b"\n")
        self._line = bytearray(rest)
        for line in lines:
            self._take_line(line)
        if len(self._line) > MAX_LINE_BYTES:
            raise CommandFailed(f"{self._program} printed a line of over {MAX_LINE_BYTES} bytes.")

    def _take_line(self, line: bytes) -> None:
        before, token, mark = line.partition(self._token)
        if not token:
            self._hand_over(line + b"\n")
            return
        if before:  # output that ended without a newline
            self._hand_over(before)
        word = mark.decode(errors="replace").strip()
        if group := _GROUP.fullmatch(word):
            self.group = Group(*group.groups())
        elif word.startswith("end ") and word[4:].isdecimal():
            code = int(word[4:])
            self.exit_code = 128 - code if code in _SIGNALS else code
            self._output.finish()
        elif word == "stderr":
            self._to_stderr = True
        elif word == "missing":
            self.missing = True
        elif word == "unwritable":
            self.unwritable = True
        else:
            raise CommandFailed(f"The device printed a mark that is none of ours: {word[:80]!r}")

    def _hand_over(self, data: bytes) -> None:
        if self._to_stderr:
            self._output.take_stderr(data)
        else:
            self._output.take_stdout(data)

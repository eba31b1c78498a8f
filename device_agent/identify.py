"""Who a remote device is: what it says of itself, asked in one command. What it prints is data."""

from __future__ import annotations

from nasdeploy.device_agent.device import DeviceInfo
from nasdeploy.errors import CommandFailed

_LONGEST = 200

IDENTIFY = r"""
exec 2>/dev/null
say() { echo "$1=$2"; }
say machine "$(uname -m)"
say kernel "$(uname -r)"
say cores "$(nproc)"
while read -r key value rest; do
  case $key in MemTotal:) say mem_kib "$value";; esac
done < /proc/meminfo
if command -v getprop; then
  say platform android
  for key in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model \
      ro.board.platform ro.build.fingerprint ro.build.version.release ro.build.version.sdk \
      ro.product.cpu.abilist; do
    say $key "$(getprop $key)"
  done
else
  say platform linux
  while IFS= read -r line; do
    case $line in PRETTY_NAME=*) say os "${line#*=}";; esac
  done < /etc/os-release
  while IFS= read -r line; do
    case $line in "model name"*|Model*|Hardware*)
      key=${line%%[[:space:]:]*}; say "cpu $key" "${line#*: }";;
    esac
  done < /proc/cpuinfo
  say board "$(tr -d '\0' < /proc/device-tree/model)"
  say product "$(cat /sys/class/dmi/id/product_name)"
  say libc "$(getconf GNU_LIBC_VERSION)"
fi
"""


def parse_identity(text: str, *, device: str) -> DeviceInfo:
    """Who it is, from what `IDENTIFY` printed; what it does not tell is None.

    Raises: `CommandFailed` when not even its instruction set and number of processors are told.
    """
    said: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        clean = "".join(c for c in value if c.isprintable()).strip()[:_LONGEST]
        if clean:
            said.setdefault(key, clean)
    cores, machine = said.get("cores", ""), said.get("machine", "")
    if not machine or not cores.isdecimal() or not 1 <= int(cores) <= 4096:
        raise CommandFailed(
            f"{device} does not say what it is: machine {machine!r}, processors {cores!r}. "
            "`uname -m` and `nproc` have to work on it."
        )
    memory = said.get("mem_kib", "")
    ram_bytes = int(memory) * 1024 if memory.isdecimal() else None
    who = _android if said.get("platform") == "android" else _linux
    return who(said, machine, int(cores), ram_bytes)


def _android(said: dict[str, str], machine: str, cores: int, ram_bytes: int | None) -> DeviceInfo:
    soc = " ".join(filter(None, (said.get("ro.soc.manufacturer"), said.get("ro.soc.model"))))
    soc = soc or said.get("ro.board.platform", "")
    model = " ".join(
        filter(None, (said.get("ro.product.manufacturer"), said.get("ro.product.model")))
    )
    build = said.get("ro.build.fingerprint", f"kernel {said.get('kernel', 'unknown')}")
    release = said.get("ro.build.version.release")
    extra = {
        "platform": "android",
        "kernel": said.get("kernel"),
        "sdk": said.get("ro.build.version.sdk"),
        "abis": said.get("ro.product.cpu.abilist"),
        "build": said.get("ro.build.fingerprint"),
    }
    return DeviceInfo(
        fingerprint=f"{model or machine}, {soc or machine}, {cores} cores, {build}",
        model=model or None,
        soc=soc or None,
        os_version=f"Android {release}" if release else None,
        machine=machine,
        cores=cores,
        ram_bytes=ram_bytes,
        extra={key: value for key, value in extra.items() if value},
    )


def _linux(said: dict[str, str], machine: str, cores: int, ram_bytes: int | None) -> DeviceInfo:
    soc = said.get("cpu model") or said.get("cpu Model") or said.get("cpu Hardware")
    model = said.get("board") or said.get("product")
    system = said.get("os", "Linux").strip("\"'")
    kernel = said.get("kernel", "unknown")
    extra = {"platform": "linux", "kernel": said.get("kernel"), "libc": said.get("libc")}
    return DeviceInfo(
        fingerprint=f"{soc or model or machine}, {cores} cores, {system}, kernel {kernel}",
        model=model,
        soc=soc,
        os_version=system,
        machine=machine,
        cores=cores,
        ram_bytes=ram_bytes,
        extra={key: value for key, value in extra.items() if value},
    )

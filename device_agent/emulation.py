"""Whether a device is an emulator: its times say nothing about the speed of what it emulates."""

from __future__ import annotations

import re

from nasdeploy.device_agent.device import Device

_TIMEOUT_S = 30.0
_SHELL = """
for file in /proc/device-tree/compatible /sys/firmware/devicetree/base/compatible; do
  if [ -r "$file" ]; then { read -r line < "$file"; echo "compatible : $line"; } 2>/dev/null; fi
done
if command -v getprop >/dev/null 2>&1; then
  for name in ro.kernel.qemu ro.boot.qemu ro.hardware; do echo "$name : $(getprop $name)"; done
fi
cat /proc/cpuinfo 2>/dev/null
exit 0
"""
_ANDROID_EMULATORS = ("goldfish", "ranchu")
_APPLE = "0x61"  # this implementer's cores are only ever virtualised, at their own speed


def seen_emulator(device: Device) -> str | None:
    """What gives it away as an emulator, or None.

    qemu's arm64 machine looks alike whether it translates instructions or runs on the host's own
    processor, and is taken for the former. Who knows better says so in devices.yaml (``emulated``).
    """
    done = device.run(["sh", "-c", _SHELL], timeout_s=_TIMEOUT_S)
    return emulator_in(done.stdout)


def emulator_in(printed: str) -> str | None:
    found: dict[str, str] = {}
    for line in printed.splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.replace("\0", " ").strip())
    if found.get("ro.kernel.qemu") == "1" or found.get("ro.boot.qemu") == "1":
        return "Android says that it runs in qemu"
    if found.get("ro.hardware") in _ANDROID_EMULATORS:
        return f"its hardware is called {found['ro.hardware']}"
    processor = found.get("model name", "")
    if re.search(r"\bQEMU\b", processor):
        return f"its processor is called {processor}"
    if "dummy-virt" in found.get("compatible", "") and found.get("CPU implementer") != _APPLE:
        return "its board is qemu's virtual one"
    return None

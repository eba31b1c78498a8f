"""What a shared library says of itself: its processor, and the name that others load it by.

The layout is that of the System V ABI for 64-bit files (gABI, chapters 4 and 5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.errors import BadInput

_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_LOADED, _DYNAMIC = 1, 2  # kinds of segments
_END, _STRINGS, _OWN_NAME = 0, 5, 14  # kinds of entries of the dynamic segment
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class Library:
    """A shared library's own words.

    Attributes:
        machine: As `uname -m` prints it.
        name: What a program that was linked with it looks for; None where it has none.
    """

    machine: str
    name: str | None


def read_library(path: Path) -> Library:
    """The header of a shared library.

    Raises: `BadInput` for a file that is none, or whose tables point outside of it.
    """
    content = path.read_bytes()
    try:
        if content[:4] != b"\x7fELF":
            raise ValueError("it does not begin like one")
        (number,) = struct.unpack_from("<H", content, 18)
        machine = _MACHINES.get(number, f"processor number {number}")
        wide, little = content[4] == 2, content[5] == 1
        return Library(machine, _name_in(content) if wide and little else None)
    except (struct.error, ValueError, IndexError) as error:
        raise BadInput(f"{path} is no shared library (an ELF file, .so): {error}.") from error


def _name_in(content: bytes) -> str | None:
    """The name among the dynamic segment's entries, which are pairs of a kind and a value."""
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    segments = [
        struct.unpack_from("<IIQQQQ", content, table + place * size) for place in range(count)
    ]
    found: dict[int, int] = {}
    for kind, _, offset, _, _, length in segments:
        if kind == _DYNAMIC:
            for key, value in struct.iter_unpack("<QQ", content[offset : offset + length]):
                if key == _END:
                    break
                found.setdefault(key, value)
    if _OWN_NAME not in found or _STRINGS not in found:
        return None
    for kind, _, offset, address, _, length in segments:
        if kind == _LOADED and address <= found[_STRINGS] < address + length:
            start = found[_STRINGS] - address + offset + found[_OWN_NAME]
            raw = content[start : start + _LONGEST_NAME].split(b"\0", 1)[0]
            return raw.decode("ascii") or None
    raise ValueError("its table of names lies outside of it")

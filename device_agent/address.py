"""How a device is written: ``local``, ``adb:SERIAL``, ``adb+tcp:HOST:PORT``, ``ssh:user@host:22``,
``sim:NAME``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nasdeploy.errors import UnknownName, UsageError

Scheme = Literal["local", "adb", "adb+tcp", "ssh", "sim"]

ADB_PORT = 5555
SSH_PORT = 22

_HOST = r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9][A-Za-z0-9._-]*)"
_FORMS: dict[Scheme, tuple[str, str]] = {
    "local": ("", "local"),
    "adb": (r"(?P<serial>[A-Za-z0-9][A-Za-z0-9._:\[\]%-]*)", "adb:SERIAL"),
    "adb+tcp": (rf"{_HOST}(:(?P<port>[0-9]+))?", "adb+tcp:HOST:PORT"),
    "ssh": (
        rf"(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@{_HOST}(:(?P<port>[0-9]+))?",
        "ssh:user@host:22",
    ),
    "sim": (r"(?P<serial>.+)", "sim:NAME"),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a device is reached, taken apart; what its scheme doesn't have is None.

    Attributes:
        serial: Of ``adb``, as ``adb devices`` lists it; of ``sim`` the table's name.
    """

    scheme: Scheme
    serial: str | None = None
    user: str | None = None
    host: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        match self.scheme:
            case "local":
                return "local"
            case "adb" | "sim":
                return f"{self.scheme}:{self.serial}"
            case "adb+tcp":
                return f"adb+tcp:{self._host}:{self.port}"
            case "ssh":
                return f"ssh:{self.user}@{self._host}:{self.port}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in (self.host or "") else str(self.host)


def parse_address(text: str) -> Address:
    """The parts of an address; `UsageError` shows how it is written.

    A name that begins with a dash is refused: no program must take it for an option.
    """
    kind, colon, rest = text.partition(":")
    scheme = next((known for known in _FORMS if known == kind), None)
    if scheme is None:
        raise UnknownName("kind of address", kind, _FORMS)
    pattern, form = _FORMS[scheme]
    match = re.fullmatch(pattern, rest)
    if match is None or bool(colon) != bool(pattern):
        raise UsageError(f"{text!r} is not an address: write {form}.")
    parts = match.groupdict()
    port: int | None = None
    if "port" in parts:
        port = int(parts["port"] or (SSH_PORT if scheme == "ssh" else ADB_PORT))
        if not 0 < port < 1 << 16:
            raise UsageError(f"{text!r} is not an address: a port lies between 1 and 65535.")
    host = parts.get("host")
    return Address(
        scheme,
        serial=parts.get("serial"),
        user=parts.get("user"),
        host=host.strip("[]") if host else None,
        port=port,
    )


def is_address(text: str) -> bool:
    """Whether a device's text is meant as an address rather than as a name."""
    return ":" in text

"""Android's commands as scripts on this machine's PATH, over a state that a test can set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DUMPSYS = """#!/bin/sh
. "{state}"
case $1 in
battery) printf 'Current Battery Service state:\\n  AC powered: false\\n  USB powered: %s\\n' $usb
  printf '  status: %s\\n  level: %s\\n  scale: 100\\n  temperature: %s\\n' $status $level $tenths;;
thermalservice) printf 'HAL Ready: true\\nThermal Status: %s\\n' $thermal;;
power) printf 'POWER MANAGER\\n  mWakefulness=%s\\n  mStayOn=false\\n' $wakefulness;;
esac
"""
_LOGGED = """#!/bin/sh
. "{state}"
echo "${{0##*/}} $*" >> "{log}"
case "${{0##*/}} $1" in
"settings get") echo "$stay_on";;
"cmd power") exit "$fixed_exit";;
esac
"""
_STATE = {
    "usb": "false", "status": "3", "level": "87", "tenths": "312", "thermal": "0",
    "wakefulness": "Awake", "stay_on": "null", "fixed_exit": "0",
}  # fmt: skip


class PhoneCommands:
    """dumpsys tells the state; svc, input, settings and cmd are only written down."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._state, self._log = folder / "state", folder / "log"
        self.set()
        self._log.touch()
        for name in ("dumpsys", "svc", "input", "settings", "cmd"):
            script = (_DUMPSYS if name == "dumpsys" else _LOGGED).format(
                state=self._state, log=self._log
            )
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def set(self, **values: str) -> None:
        state = {**_STATE, **values}
        self._state.write_text("".join(f"{name}={value}\n" for name, value in state.items()))

    def calls(self) -> list[str]:
        """What was called since the last time, without questions."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return [line for line in lines if not line.startswith("settings get")]

"""The user's own benchmark program in the place of our runners."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy import durable
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.runners.native.recipe import Recipe
from nasdeploy.device_agent.runners.native.runner import NativeRunner
from nasdeploy.errors import CommandFailed, UsageError

TOOLS = {"litert": "benchmark_model", "executorch": "executor_runner"}
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ExternalRunner:
    """LiteRT's `benchmark_model` or ExecuTorch's `executor_runner`, as built for the device.

    A small program of ours starts it there and speaks the protocol. Each visit is a process of its
    own that has run the model ten times before, so that all runs are warm. `benchmark_model` tells
    single runs in microseconds, `executor_runner` in nanoseconds.

    Attributes:
        means: An older `executor_runner`, which tells its runs' mean only.
        launcher: Of ours.
    """

    tool: str
    program: Path
    means: bool
    launcher: NativeRunner

    @property
    def runtime(self) -> str:
        return self.launcher.runtime

    @property
    def suffix(self) -> str:
        return self.launcher.suffix

    @property
    def version(self) -> str:
        return f"{self.tool} {durable.sha256_file(self.program)[:12]}"

    def kind(self, device: Device) -> str:
        return f"{self.version}{', means of many runs' if self.means else ''}"

    def prepare(self, device: Device) -> None:
        self.launcher.prepare(device)
        remote = self._remote(device)
        device.push(self.program, remote)
        done = device.run(["chmod", "755", remote], timeout_s=_TIMEOUT_S)
        if done.exit_code != 0:
            raise CommandFailed(f"{remote} on {device.name}: {done.stderr.strip()}.")

    def check(self, device: Device) -> str:
        """The program by its content; whether it runs a model shows when it is given one."""
        self.prepare(device)
        done = device.run(self.argv(device, "--version"), timeout_s=_TIMEOUT_S)
        if done.exit_code != 0:
            raise CommandFailed(
                f"{self.program} cannot be started on {device.name}: {done.stderr.strip()}."
            )
        return self.version

    def argv(self, device: Device, job: str) -> Sequence[str]:
        *start, last = self.launcher.argv(device, job)
        tool = f"{self.tool}_means" if self.means else self.tool
        return (*start, tool, self._remote(device), self.version, last)

    def _remote(self, device: Device) -> str:
        digest = durable.sha256_file(self.program)[:20]
        return f"{device.workdir}/runners/{self.tool}-{digest}/{self.tool}"


def external_runner(recipe: Recipe, path: str, say: Callable[[str], None]) -> ExternalRunner:
    """The runner for a program of the user's.

    Raises: `UsageError` for a path that is no file, a runtime without such a program, and one that
        was built so that it prints no times.
    """
    program = Path(path).expanduser()
    if not program.is_file():
        raise UsageError(
            f"There is no program {path}. --runner takes native, native+glibc, python, or the path "
            "of your own benchmark_model or executor_runner."
        )
    if recipe.runtime not in TOOLS:
        raise UsageError(
            f"{recipe.runtime} has no program whose output is understood; those of "
            f"{' and '.join(sorted(TOOLS))} have. Leave --runner out."
        )
    for runtime, name in TOOLS.items():
        if runtime != recipe.runtime and name in program.name:
            raise UsageError(f"{program} is {runtime}'s, and does not run {recipe.runtime}.")
    tool = TOOLS[recipe.runtime]
    launcher = Recipe(
        runtime=recipe.runtime,
        suffix=recipe.suffix,
        package="",
        source="external.cpp",
        libraries={},
    )
    means = tool == "executor_runner" and _tells_means_only(program)
    return ExternalRunner(tool, program, means, NativeRunner(launcher, say=say))


def _tells_means_only(executor_runner: Path) -> bool:
    """By the texts that it prints, which a program without logging does not have in it.

    Raises: `UsageError` for such a program. A script may start one that has them, so it is not
        held to that.
    """
    content = executor_runner.read_bytes()
    if content.startswith(b"\x7fELF") and b"executed successfully" not in content:
        raise UsageError(
            f"{executor_runner} was built without logging, so that it prints no times. Build it "
            "with -DEXECUTORCH_ENABLE_LOGGING=ON, which release builds leave out."
        )
    return b"Iteration %" not in content

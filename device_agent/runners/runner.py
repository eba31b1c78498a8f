"""What measuring needs of a runner, and the ones that there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.runners.native.external import external_runner
from nasdeploy.device_agent.runners.native.ndk import archive_of
from nasdeploy.device_agent.runners.native.recipe import RECIPES, Recipe
from nasdeploy.device_agent.runners.native.runner import NativeRunner
from nasdeploy.device_agent.runners.python_runner import PythonRunner
from nasdeploy.errors import UnknownName, UsageError


class Runner(Protocol):
    """How one runtime is started on a device. The protocol that it speaks: `runners`."""

    @property
    def runtime(self) -> str: ...

    @property
    def suffix(self) -> str:
        """Of the files that it runs: ``".tflite"``."""
        ...

    def kind(self, device: Device) -> str:
        """How it runs there, as it is recorded: ``"native"``; unlike ones are never mixed."""
        ...

    def prepare(self, device: Device) -> None:
        """Put on the device what is needed there; nothing to do when it is there already."""
        ...

    def check(self, device: Device) -> str:
        """The runtime's version on the device, or `CommandFailed` that says how to get it."""
        ...

    def argv(self, device: Device, job: str) -> Sequence[str]:
        """The command that carries out the job at this path on the device."""
        ...


def _python(recipe: Recipe, say: Callable[[str], None]) -> Runner:
    module = f"{__package__}.python_{recipe.runtime}"
    return PythonRunner(recipe.runtime, recipe.suffix, module, recipe.package)


RUNNERS: dict[str, Callable[[Recipe, Callable[[str], None]], Runner]] = {
    "native": lambda recipe, say: NativeRunner(recipe, say=say),
    "native+glibc": lambda recipe, say: NativeRunner(recipe, own_c_library=True, say=say),
    "python": _python,
}
"""By the name that a user gives: how a runtime is run."""

RUNTIMES = tuple(RECIPES)


def _by_ndk(recipe: Recipe, library: str, say: Callable[[str], None]) -> Runner:
    published = archive_of(recipe).published
    if not library:
        raise UsageError(
            f"--runner ndk needs {recipe.runtime}'s library for Android, which pip does not have: "
            f"download {published} from Maven and name it, --runner ndk:{published}. Without "
            "--runner, the native one brings glibc along."
        )
    return NativeRunner(recipe, android_library=library, say=say)


def open_runner(
    runtime: str, choice: str = "native", *, say: Callable[[str], None] = lambda text: None
) -> Runner:
    """The runner of a runtime; `UnknownName` says which there are.

    Args:
        choice: Of `RUNNERS`; ``ndk:PATH`` with the runtime's Android archive, or its library; or
            the path of the user's own `benchmark_model` or `executor_runner`. None is ever taken
            in place of another: what cannot be had is an error that says how to get it.
        say: Told what takes a while, such as the first build of a native runner.
    """
    if runtime not in RECIPES:
        raise UnknownName("runtime", runtime, RECIPES)
    kind, _, library = choice.partition(":")
    if kind == "ndk":
        return _by_ndk(RECIPES[runtime], library, say)
    if choice not in RUNNERS and ("/" in choice or Path(choice).is_file()):
        return external_runner(RECIPES[runtime], choice, say)
    if choice not in RUNNERS:
        raise UnknownName("runner", choice, {*RUNNERS, "ndk:PATH"})
    return RUNNERS[choice](RECIPES[runtime], say)

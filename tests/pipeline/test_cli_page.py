"""docs/cli.md says what --help says, and every --help has an example."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from small_run import environment

DOCS = Path(__file__).parent.parent.parent / "docs"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()
COMMANDS = list(SCRIPT.commands())


def test_the_page_is_current() -> None:
    assert (DOCS / "cli.md").read_text() == SCRIPT.page(), "write it anew: python docs/make_cli.py"


def test_every_command_of_the_design_is_there() -> None:
    names = {" ".join(command) for command in COMMANDS}
    assert names == {
        "devices", "devices add", "devices remove", "devices clean", "compare",
        "doctor", "profile", "search", "run", "train", "export", "verify", "bench",
        "space", "space list", "space show", "space range",
        "table", "table show", "table diff", "table merge", "table check", "table import",
    }  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_its_help_has_an_example(command: tuple[str, ...]) -> None:
    if command in {("space",), ("table",)}:
        return
    text = SCRIPT.help_of(command)
    assert f"nasdeploy {' '.join(command)}" in text.partition("Example")[2]


def test_no_help_imports_torch_or_a_runtime() -> None:
    script = (
        "import sys\n"
        "from nasdeploy.pipeline.cli import main\n"
        f"for command in {COMMANDS!r}:\n"
        "    sys.argv = ['nasdeploy', *command, '--help']\n"
        "    try:\n        main()\n"
        "    except SystemExit as end:\n        assert not end.code, command\n"
        "heavy = {'torch', 'executorch', 'onnx', 'onnxruntime', 'ai_edge_litert', 'litert_torch',\n"
        "         'scipy', 'numpy', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr

"""The wheel, the tree and the type checkers see the same packages; each imports what it may."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}

ALLOWED = {
    "pipeline": {"pipeline", "search", "export", "device_agent", "latency_tables"},
    "search": {"search", "latency_tables"},
    "export": {"export"},
    "device_agent": {"device_agent"},
    "latency_tables": {"latency_tables"},
    "src/nas": {"pipeline", "search"},
    "src/nasdeploy": set(),
}
GROUND = {"errors", "units", "durable", "seeds", "__version__"}
TORCH_FREE = ("latency_tables", "src/nasdeploy", "device_agent")


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_package_in_the_tree_is_in_the_wheel() -> None:
    in_the_tree = {"nasdeploy"}
    for name, folder in FOLDERS.items():
        if name != "nasdeploy":
            for init in folder.rglob("__init__.py"):
                inside = init.parent.relative_to(folder).parts
                in_the_tree.add(".".join((name, *inside)))
    assert set(SETUPTOOLS["packages"]) == in_the_tree


def test_every_folder_has_a_link_for_the_type_checkers() -> None:
    linked = {path.name for path in FOLDERS["nasdeploy"].iterdir() if path.is_symlink()}
    assert linked == {
        folder.name for name, folder in FOLDERS.items() if name.startswith("nasdeploy.")
    }


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_only_what_the_house_allows(folder: str) -> None:
    may = ALLOWED[folder] | GROUND
    for path in sorted((ROOT / folder).rglob("*.py")):
        if folder == "src/nasdeploy" and path.parent != ROOT / folder:
            continue  # behind the links, and judged there
        if path.name == "__main__.py":
            continue  # the one door from the ground up: python -m nasdeploy
        for name in imported(path):
            if name.startswith("nasdeploy."):
                assert name.split(".")[1] in may, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", TORCH_FREE)
def test_measuring_and_tables_know_nothing_of_torch(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if "runners" in path.parts or (folder == "src/nasdeploy" and path.parent != ROOT / folder):
            continue  # a runner is a process of its own; ExecuTorch's bindings need torch
        heavy = {name for name in imported(path) if name.split(".")[0] in ("torch", "torchvision")}
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy}"


def test_the_short_names_are_there_at_once() -> None:
    script = (
        "import sys\n"
        "from nas import DARTSSearcher, PNASSearcher, ENASSearcher, PCDARTSSearcher\n"
        "from nas import ProxylessNASSearcher, ArchitectureEvaluator\n"
        "heavy = {'torch', 'scipy', 'numpy', 'pydantic', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_imports_neither_torch_nor_a_runtime() -> None:
    script = (
        "import sys\n"
        "from nasdeploy.pipeline.cli import main\n"
        "sys.argv = ['nasdeploy', '--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'executorch', 'onnx', 'onnxruntime', 'ai_edge_litert',\n"
        "         'litert_torch', 'scipy', 'numpy', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nasdeploy search --latency 100ms" in done.stdout

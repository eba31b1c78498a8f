"""What cannot be done ends in one line, the right exit code, and nothing half-written."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from small_run import (
    Cli,
    Ended,
    of_this_machine,
    small_space,
    write_config,
    write_small_table,
)

from nasdeploy.errors import NasdeployError
from nasdeploy.search.counters import counted_cost


@pytest.fixture(autouse=True)
def inputs(folder: Path, made: Path) -> None:
    shutil.copytree(made, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs that are wrong in one way each, beside some that are right."""
    folder = tmp_path_factory.mktemp("inputs")
    write_small_table(folder / "table.yaml")
    write_small_table(folder / "own.yaml", **of_this_machine())
    whole = (folder / "table.yaml").read_text()
    (folder / "edited.yaml").write_text(whole.replace("median_ms: 0.0", "median_ms: 0.1", 1))
    (folder / "cut.yaml").write_text(whole[: len(whole) // 2])
    write_config(folder / "good.yaml")
    write_config(folder / "field.yaml", serach={"strategy": "proxyless"})
    write_config(folder / "nested.yaml", train={"epochs": 3})
    write_config(folder / "parameter.yaml", space={"name": "mobile-small", "kernel": [3]})
    write_config(folder / "unitless.yaml", bounds={"latency": "100"})
    (folder / "tags.yaml").write_text("data: !!python/object/apply:os.system ['touch pwned']\n")
    (folder / "list.yaml").write_text("- data\n")
    (folder / "broken.yaml").write_text("data: [1, 2\nname: x\n")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (folder / "empty").mkdir()
    for name in ("shirt", "shoe"):
        (folder / "corrupt" / name).mkdir(parents=True)
        (folder / "bare" / name).mkdir(parents=True)
        for number in range(6):
            image = Image.fromarray(np.full((28, 28), 40 * number, np.uint8))
            image.save(folder / "corrupt" / name / f"{number}.png")
            if name == "shirt":
                image.save(folder / "bare" / name / f"{number}.png")
    (folder / "corrupt" / "shoe" / "3.png").write_bytes(b"\x89PNG not really")
    return folder


SEARCH = ("search", "--data", "tiny.npz", "--table", "table.yaml")
ONNX = ("--runtime", "onnxruntime", "--precision", "fp32")
QUICK = ("--set", "warmup_epochs=0", "--set", "search_epochs=1")

CASES: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown command": (("serach",), 2, "search"),
    "unknown option": ((*SEARCH, "--latancy", "1ms"), 2, "--latency"),
    "option that is no number": (("profile", "--threads", "two"), 2, "--threads"),
    "unknown space": ((*SEARCH, "--latency", "1ms", "--space", "mobil"), 2, "'mobile'"),
    "unknown parameter of a space": (("run", "parameter.yaml"), 2, "'kernels'"),
    "unknown strategy": (
        (*SEARCH, "--latency", "1ms", "--strategy", "proxylless"), 2, "'proxyless'",
    ),
    "unknown setting": ((*SEARCH, "--latency", "1ms", "--set", "epochss=1"), 2, "search_epochs"),
    "setting without a value": ((*SEARCH, "--latency", "1ms", "--set", "epochs"), 2, "NAME=VALUE"),
    "setting of the wrong kind": (
        (*SEARCH, "--latency", "1ms", "--set", "search_epochs=many"), 2, "search_epochs",
    ),
    "unknown device": ((*SEARCH, "--latency", "1ms", "--device", "locl"), 2, "'local'"),
    "unknown runtime": (("profile", "--runtime", "litter"), 2, "litert"),
    "unknown precision": (("profile", "--precision", "int4"), 2, "'int8'"),
    "unknown data": ((*SEARCH[:2], "fashion-mnst", "--latency", "1ms", "--table", "table.yaml"),
                     2, "'fashion-mnist'"),
    "unknown table": (("space", "range", "mobile", "--table", "pixel"), 2, "'pixel1'"),
    "unknown run": (("train", "--run", "nothing"), 2, "Known: none"),
    "no run yet": (("verify",), 2, "nasdeploy search"),
    "no table yet": (("search", "--data", "tiny.npz", "--latency", "1ms"), 2, "nasdeploy profile"),
    "no data": (("search", "--table", "table.yaml", "--latency", "1ms"), 2, "--data"),
    "no bound": (SEARCH, 2, "--latency"),
    "missing table": (("table", "check", "tables/none.yaml"), 2, "nasdeploy profile"),
    "edited table": (("table", "check", "edited.yaml"), 2, "edited.yaml"),
    "cut table": (("table", "show", "cut.yaml"), 2, "cut.yaml"),
    "table of another runtime": (
        ("search", "--data", "tiny.npz", "--table", "own.yaml", "--latency", "5ms",
         "--runtime", "litert"),
        2, "measured with runtime onnxruntime",
    ),
    "table of another precision": (
        ("search", "--data", "tiny.npz", "--table", "own.yaml", "--latency", "5ms",
         "--precision", "int8"),
        2, "measured with precision fp32",
    ),
    "import of a missing file": (
        ("table", "import", "none.yaml", "--into", "x.yaml", "--device", "y"), 2, "none.yaml",
    ),
    "merge of unlike tables": (
        ("table", "merge", "table.yaml", "own.yaml", "--into", "x.yaml"), 2, "device",
    ),
    "statistic that is none": (
        (*SEARCH, "--latency", "1ms", "--statistic", "p50"), 2, "'median'",
    ),
    "statistic that a table lacks": (
        ("space", "range", "mobile", "--table", "pixel1", "--statistic", "p95"), 2, "mean",
    ),
    "bound without its unit": ((*SEARCH, "--latency", "100"), 2, "'100ms'"),
    "negative bound": ((*SEARCH, "--latency=-5ms"), 2, "'-5ms'"),
    "bound of zero": ((*SEARCH, "--latency", "0ms"), 2, "more than zero"),
    "share above all": ((*SEARCH, "--latency", "140%"), 2, "100%"),
    "bound that nothing reaches": ((*SEARCH, "--latency", "1us"), 3, "ms"),
    "share of nothing": ((*SEARCH, "--latency", "0%"), 2, "more than zero"),
    "parameters that nothing has": ((*SEARCH, "--max-params", "10"), 3, "param"),
    "size without its unit": ((*SEARCH, "--max-size", "12"), 2, "MB"),
    "shape of two numbers": ((*SEARCH, "--latency", "1ms", "--input-shape", "28x28"), 2, "3x96x96"),
    "missing supernet": (
        (*SEARCH, "--latency", "5ms", "--supernet", "none.pt"), 2, "none.pt",
    ),
    "damaged supernet": (
        (*SEARCH, "--latency", "5ms", "--supernet", "tiny.npz"), 2, "tiny.npz",
    ),
    "missing measurements": (
        (*SEARCH, "--latency", "5ms", "--measurements", "none.jsonl"), 2, "none.jsonl",
    ),
    "folder without images": ((*SEARCH[:2], "folder:empty", "--table", "table.yaml",
                               "--latency", "5ms"), 2, "empty"),
    "class without images": ((*SEARCH[:2], "folder:bare", "--table", "table.yaml",
                              "--latency", "5ms"), 2, "shoe"),
    "corrupt image": ((*SEARCH[:2], "folder:corrupt", "--table", "table.yaml",
                       "--latency", "5ms", *QUICK), 2, "3.png"),
    "folder without its prefix": ((*SEARCH[:2], "corrupt", "--table", "table.yaml",
                                   "--latency", "5ms"), 2, "folder:corrupt"),
    "missing archive": ((*SEARCH[:2], "none.npz", "--table", "table.yaml",
                         "--latency", "5ms"), 2, "none.npz"),
    "missing configuration": (("run", "none.yaml"), 2, "none.yaml"),
    "unknown field": (("run", "field.yaml"), 2, "'search'"),
    "unknown field of a section": (("run", "nested.yaml"), 2, "field of train 'epochs'"),
    "configuration that is a list": (("run", "list.yaml"), 2, "mapping"),
    "configuration that breaks": (("run", "broken.yaml"), 2, "line 2"),
    "configuration of bytes": (("run", "binary.yaml"), 2, "binary.yaml"),
    "configuration with code in it": (("run", "tags.yaml"), 2, "line 1"),
    "bound without its unit in a file": (("run", "unitless.yaml"), 2, "bounds.latency"),
    "bench of another file": (("bench", "tiny.npz"), 2, ".tflite"),
    "bench of a missing file": (("bench", "none.onnx"), 2, "none.onnx"),
    "resume and overwrite": (("profile", "--resume", "--overwrite"), 2, "one of them"),
    "loss that is not finite": (
        (*SEARCH, "--latency", "5ms", *QUICK, "--set", "weight_lr=1e30"), 8, "weight_lr",
    ),
}  # fmt: skip


def said(ended: Ended) -> str:
    """The one line of the error; what is before it is the log."""
    assert "Traceback" not in ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.err
    assert ended.err.splitlines()[-1] == errors[0], "the error is the last thing that is said"
    assert ended.out == ""
    return errors[0]


@pytest.mark.parametrize("case", CASES)
def test_it_says_what_is_wrong_in_one_line(case: str, cli: Cli, folder: Path) -> None:
    arguments, code, text = CASES[case]
    before = {path for path in folder.rglob("*") if "runs" not in path.parts}
    ended = cli(*arguments)
    assert text in said(ended)
    assert ended.code == code
    after = {path for path in folder.rglob("*") if "runs" not in path.parts}
    assert after == before, "nothing was written beside the run's own folder"
    if code in (2, 3) and "corrupt" not in case:
        assert not (folder / "runs").exists(), "nor a run that never began"


def test_bounds_that_exclude_each_other_are_named(cli: Cli, folder: Path) -> None:
    write_small_table(folder / "odd.yaml", lean_is_slow=True)
    macs = sorted(counted_cost(small_space(), "macs")(list(itertools.product(range(2), range(4)))))
    ended = cli(
        "search", "--data", "tiny.npz", "--table", "odd.yaml", "--latency", "10%",
        "--max-flops", str(round(macs[1])),
    )  # fmt: skip
    assert ended.code == 3
    assert "latency" in said(ended)
    assert "exclude each other" in said(ended)


def test_the_range_stands_in_the_refusal_of_a_bound(cli: Cli) -> None:
    low = yaml.safe_load(
        cli("space", "range", "mobile-small", "--table", "table.yaml", "--format", "yaml").out
    )["low_ms"]
    assert f"{low:.4g} ms" in said(cli(*SEARCH, "--latency", f"{low / 2}ms"))


def test_a_run_refuses_its_train_settings_before_it_profiles(cli: Cli, folder: Path) -> None:
    write_config(folder / "bad.yaml", train={"settings": {"epoch": 2}})
    ended = cli("run", "bad.yaml")
    assert ended.code == 2
    assert "epochs" in said(ended)
    assert not (folder / "runs").exists()


def test_a_lost_permission_is_one_line(cli: Cli, folder: Path) -> None:
    (folder / "runs").write_text("a file where the folder of runs should be")
    ended = cli(*SEARCH, "--latency", "5ms", *QUICK)
    assert ended.code == 2
    assert "runs" in said(ended)


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_whole_files_only(
    cli: Cli, folder: Path, small_disk: Path
) -> None:
    (folder / "runs").symlink_to(small_disk)
    search = (*SEARCH, *ONNX, "--latency", "5ms", *QUICK, "--name", "full")
    ended = cli(*search)
    assert ended.code == 7
    assert "full" in said(ended)
    assert not list(small_disk.rglob("*.part"))
    (folder / "runs").unlink()
    shutil.copytree(small_disk, folder / "runs")
    again = cli(*search)
    assert again.code == 0, again.err


def test_every_kind_of_error_has_an_exit_code_of_its_own() -> None:
    kinds = NasdeployError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert sorted(codes) == [2, 3, 4, 5, 6, 7, 8, 9]

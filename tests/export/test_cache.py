"""The cache of exported graphs: what decides a file, and what a failure leaves behind."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import exportable
import pytest
import torch
from torch import Tensor, nn

from nasdeploy.errors import ExportError, UsageError
from nasdeploy.export.artifact import Precision, Target
from nasdeploy.export.cache import (
    CachedFile,
    ExportJob,
    _exporter_identity,
    export_many,
    fingerprint,
)
from nasdeploy.export.probes import (
    EMPTY_INPUT_SHAPES,
    SENTINEL_INPUT_SHAPES,
    empty_module,
    sentinel_module,
)

SHAPES = ((8, 6, 6),)


def hash_of(
    module: nn.Module,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    *,
    runtime: str = "onnxruntime",
    precision: Precision = "fp32",
    target: Target = "x86-64",
    quantised_io: bool = False,
) -> str:
    return fingerprint(
        module.eval(),
        shapes,
        runtime=runtime,
        precision=precision,
        target=target,
        quantised_io=quantised_io,
    )


def export(jobs: list[ExportJob[str]], cache: Path, **options: Any) -> dict[str, CachedFile]:
    return export_many(
        jobs,
        cache,
        runtime="onnxruntime",
        precision="fp32",
        target="x86-64",
        quantised_io=False,
        **options,
    )


def test_the_values_of_weights_do_not_count_and_everything_else_does() -> None:
    same = {hash_of(exportable.block(8, 8, 3, 3, 1)) for _ in range(2)}
    assert len(same) == 1
    others = {
        hash_of(exportable.block(8, 8, 5, 3, 1)),
        hash_of(exportable.block(8, 8, 3, 6, 1)),
        hash_of(exportable.block(8, 8, 3, 3, 1), ((8, 7, 7),)),
        hash_of(exportable.block(8, 8, 3, 3, 1), runtime="litert"),
        hash_of(exportable.block(8, 8, 3, 3, 1), precision="int8"),
        hash_of(exportable.block(8, 8, 3, 3, 1), precision="int8", quantised_io=True),
        hash_of(exportable.block(8, 8, 3, 3, 1), target="arm64"),
    }
    assert len(others - same) == 7


def test_an_edited_forward_is_another_graph() -> None:
    class Edited(exportable.Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    assert hash_of(Edited(8, 8, 3, 3, 1)) != hash_of(exportable.Block(8, 8, 3, 3, 1))


def test_settings_that_no_weight_shows_are_another_graph() -> None:
    strides = {hash_of(nn.MaxPool2d(3, stride)) for stride in (1, 2)}
    assert len(strides | {hash_of(nn.AvgPool2d(3, 1)), hash_of(nn.BatchNorm2d(8, eps=1e-3))}) == 4


def test_a_forward_that_branches_is_hashed_by_its_source() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.shape[1] > 4 else x

    assert hash_of(Branches()) == hash_of(Branches())


@pytest.mark.parametrize("source", ["litert", "conversion", "depthwise", "pools", "quantise"])
def test_what_an_exporter_is_made_of_counts(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_of(nn.ReLU(), runtime="litert")
    read = inspect.getsource

    def edited(of: Any) -> str:
        return read(of) + "# edited" * (getattr(of, "__name__", "").endswith(f"export.{source}"))

    monkeypatch.setattr(inspect, "getsource", edited)
    _exporter_identity.cache_clear()
    after = hash_of(nn.ReLU(), runtime="litert")
    _exporter_identity.cache_clear()
    assert after != before


def test_a_fingerprint_costs_little() -> None:
    block = exportable.block(96, 96, 7, 6, 1)
    hash_of(block)
    start = time.process_time()
    for _ in range(20):
        hash_of(block)
    assert (time.process_time() - start) / 20 < 0.02  # 3 ms where nothing else runs


@pytest.mark.slow
def test_each_distinct_graph_is_exported_once(tmp_path: Path) -> None:
    jobs = [
        ExportJob("a", partial(exportable.block, 8, 8, 3, 3, 1), SHAPES),
        ExportJob("same as a", partial(exportable.block, 8, 8, 3, 3, 1), SHAPES),
        ExportJob("a module", exportable.block(8, 8, 5, 3, 1), SHAPES),
        ExportJob("empty", empty_module, EMPTY_INPUT_SHAPES),
        ExportJob("sentinel", sentinel_module, SENTINEL_INPUT_SHAPES),
    ]
    told: list[tuple[int, int, str]] = []
    state = torch.random.get_rng_state()
    first = export(jobs, tmp_path, workers=2, on_progress=lambda *news: told.append(news))
    assert torch.equal(state, torch.random.get_rng_state())
    assert list(first) == [job.key for job in jobs]
    assert [news[:2] for news in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert first["a"] == first["same as a"]
    assert len({file.path for file in first.values()}) == 4
    assert not any(file.was_cached for file in first.values())
    names = {file.path.name for file in first.values()}
    assert {p.name for p in tmp_path.iterdir()} == names | {f"{name}.json" for name in names}
    outputs = exportable.run_file(first["a"].artifact, torch.randn(2, 8, 6, 6))
    assert outputs.std() > 0.1

    second = export(jobs, tmp_path, workers=2, on_progress=lambda *news: told.append(news))
    assert len(told) == 4
    for key, file in second.items():
        assert file.was_cached
        assert file.artifact == first[key].artifact


@pytest.mark.slow
def test_a_damaged_file_is_exported_again(tmp_path: Path) -> None:
    jobs = [ExportJob("empty", empty_module, EMPTY_INPUT_SHAPES)]
    file = export(jobs, tmp_path)["empty"]
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-1])
    again = export(jobs, tmp_path)["empty"]
    assert not again.was_cached
    assert file.path.read_bytes() == content  # one seed gives one file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (exportable.SingularValues, r"bad failed: .*aten\._linalg_svd.*are kept"),
        (exportable.Kills, "bad failed: its process ended with signal SIGKILL"),
    ],
)
def test_a_failure_names_the_operator_and_the_rest_is_kept(
    module: type[nn.Module], message: str, tmp_path: Path
) -> None:
    good = ExportJob("good", partial(exportable.block, 8, 8, 3, 3, 1), SHAPES)
    with pytest.raises(ExportError, match=message):
        export([ExportJob("bad", module, SHAPES), good], tmp_path, workers=1)
    assert len(list(tmp_path.iterdir())) == 2  # the file and what is known of it; no leftovers
    assert export([good], tmp_path)["good"].was_cached


def test_a_build_that_cannot_travel_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"module of local cannot be sent.*functools\.partial"):
        export([ExportJob("local", lambda: exportable.Add(), (*SHAPES, *SHAPES))], tmp_path)
    assert list(tmp_path.iterdir()) == []


_SCRIPT = """
import sys
from functools import partial
from pathlib import Path
import exportable
from nasdeploy.export.cache import ExportJob, export_many
if __name__ == "__main__":
    builds = [partial(exportable.block, 8, 8 + i, 3, 3, 1) for i in range(40)]
    jobs = [ExportJob(str(i), build, ((8, 6, 6),)) for i, build in enumerate(builds)]
    export_many(jobs, Path(sys.argv[1]), runtime="onnxruntime", precision="fp32", target="x86-64",
                quantised_io=False, workers=2, on_progress=lambda *news: print(*news, flush=True))
"""  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_export_leaves_whole_files_and_no_process(
    how: signal.Signals, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, str(script), str(cache)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    for _ in range(2):
        process.stdout.readline()
    # Ctrl-C reaches the whole group; a kill reaches one process, and the workers see its end
    (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
    assert process.stderr.read().count("leaked") == 0  # it ends when the last worker has
    process.wait(10)
    assert process.returncode != 0
    whole = {path.stem for path in cache.glob("*.onnx.json")}
    assert len(whole) >= 2
    for name in whole:
        assert (cache / name).stat().st_size > 0

    jobs = [ExportJob("0", partial(exportable.block, 8, 8, 3, 3, 1), SHAPES)]
    export(jobs, cache)
    left = {path.name for path in cache.iterdir() if path.suffix not in (".onnx", ".json")}
    assert left == set()

"""Tables whose rows are of other files than would be exported now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_run import CONFIG, of_this_machine, small_space, write_small_table, write_tiny_npz

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.export.cache import graph_of
from nasdeploy.latency_tables.table import read_table, write_table
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.estimating import open_table
from nasdeploy.pipeline.flow import load, make_context, pose_on
from nasdeploy.pipeline.stages.files import exported_otherwise, op_jobs


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Its rows say which graphs they are of, one of them another than the present one."""
    path = tmp_path / "own.yaml"
    here = LocalDevice().info()
    write_small_table(path, **of_this_machine(), target=here.target)
    written = read_table(path)
    graphs = {
        job.key: graph_of(
            job, runtime="onnxruntime", precision="fp32", target=here.target, quantised_io=False
        )
        for job in op_jobs(small_space().all_ops())
    }
    graphs[min(graphs)] = "0" * 64
    rows = {key: replace(row, graph=graphs[key]) for key, row in written.ops.items()}
    write_table(replace(written, ops=rows), path)
    return path


def test_the_row_of_another_file_is_found(table: Path) -> None:
    assert exported_otherwise(small_space(), read_table(table)) == [min(read_table(table).ops)]


def test_rows_that_do_not_say_what_they_are_of_are_taken_as_they_are(tmp_path: Path) -> None:
    write_small_table(tmp_path / "table.yaml", **of_this_machine())
    assert exported_otherwise(small_space(), read_table(tmp_path / "table.yaml")) == []


def test_a_search_says_so_and_what_to_do(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_npz(tmp_path / "tiny.npz")
    config = make_config({**CONFIG, "table": str(table)}, source="the test")
    context = make_context(config, Console())
    pose_on(context, open_table(table), load(config))
    said = " ".join(capsys.readouterr().err.split())
    assert "1 operators of" in said
    assert "nasdeploy profile --device local --runtime onnxruntime --precision fp32" in said

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.pipeline.run_folder import RunFolder, digest, find_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "runs" / "one"
    path.mkdir(parents=True)
    return RunFolder(path)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": (2, 3)}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_opening_a_run_writes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "runs" / "new")
    assert not (tmp_path / "runs").exists()


def test_a_stage_is_done_while_its_inputs_and_its_files_are_unchanged(folder: RunFolder) -> None:
    file = folder.path / "pareto.csv"
    file.write_text("trial\n")
    folder.finish("search", {"seed": 0}, {"arch": [1]}, file)
    reopened = RunFolder(folder.path)
    assert reopened.done("search", {"seed": 0}) == {"arch": [1]}
    assert reopened.done("search", {"seed": 1}) is None
    file.write_text("edited\n")
    assert reopened.done("search", {"seed": 0}) is None
    file.unlink()
    assert reopened.outputs_of("search") is None


def test_a_stage_that_is_done_anew_undoes_the_later_ones(folder: RunFolder) -> None:
    for stage in ("search", "train", "export"):
        folder.finish(stage, {}, {})
    folder.finish("train", {"epochs": 2}, {})
    assert folder.outputs_of("search") is not None
    assert folder.outputs_of("export") is None


def test_a_stage_goes_on_with_what_the_same_inputs_left(folder: RunFolder) -> None:
    history = folder.path / "history.jsonl"
    assert folder.begin("search", {"bound": 1}, history) is None
    history.write_text("{}\n")
    assert RunFolder(folder.path).begin("search", {"bound": 1}, history) is None
    assert history.exists()


def test_what_other_inputs_left_is_set_aside(folder: RunFolder) -> None:
    history, winner = folder.path / "history.jsonl", folder.path / "winner"
    for bound in (1, 2, 1, 2):
        folder.begin("search", {"bound": bound}, history, winner)
        history.write_text(f"{bound}\n")
        winner.mkdir()
        (winner / "arch.json").write_text(str(bound))
    kept = sorted(path.read_text() for path in folder.path.glob("set-aside/*/history.jsonl"))
    assert kept == ["1\n", "1\n", "2\n"]
    assert len(list(folder.path.glob("set-aside/*/winner/arch.json"))) == 3
    assert history.read_text() == "2\n"


def test_two_processes_do_not_write_one_run(folder: RunFolder) -> None:
    with (
        folder.only_me(),
        pytest.raises(UsageError, match="in use by process"),
        RunFolder(folder.path).only_me(),
    ):
        pass
    with folder.only_me():
        pass


def test_what_a_kill_left_half_written_is_removed(folder: RunFolder) -> None:
    litter = folder.path / "winner" / ".weights.pt.abc.part"
    litter.parent.mkdir()
    litter.write_text("half")
    with folder.only_me():
        assert not litter.exists()


def test_a_damaged_manifest_is_said(folder: RunFolder) -> None:
    (folder.path / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json is damaged"):
        RunFolder(folder.path)


def test_a_run_is_found_by_name_by_path_or_as_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no run in runs/"):
        find_run(None)
    for name in ("b", "a"):
        Path("runs", name).mkdir(parents=True)
        RunFolder(Path("runs", name)).save(seed=0)
    assert find_run("b") == find_run("runs/b") == Path("runs/b")
    os.utime("runs/a/manifest.json", (1, 1))
    assert find_run(None) == Path("runs/b")
    with pytest.raises(UsageError, match="Known: a, b"):
        find_run("c")

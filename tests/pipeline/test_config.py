from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.pipeline.config import make_config, read_config, write_config
from nasdeploy.pipeline.project import config_from, merged, newest_table, table_path


def config_error(**values: Any) -> str:
    with pytest.raises(BadInput) as raised:
        make_config({"data": "cifar10", **values}, source="file.yaml")
    return str(raised.value)


def test_the_example_that_ships_is_read() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "quickstart.yaml"
    config = read_config(example)
    assert config.data == "fashion-mnist-mini"
    assert config.bounds.any


def test_quantities_carry_their_units() -> None:
    bounds = {"latency": "0.1s", "params": "3M", "memory": "2MiB", "size": 1000}
    config = make_config({"data": "x", "bounds": bounds}, source="")
    assert config.bounds.latency == "0.1s"
    assert (config.bounds.params, config.bounds.memory) == (3_000_000, 2 * 2**20)
    assert config.bounds.size == 1000


def test_an_error_names_the_file_and_the_field() -> None:
    assert config_error(threads=0).startswith("file.yaml: threads: ")
    assert config_error(bounds={"latency": "100"}).startswith("file.yaml: bounds.latency: ")
    assert config_error(bounds={"size": "2"}).startswith("file.yaml: bounds.size: ")


def test_an_unknown_field_is_answered_with_the_known_ones_of_its_section() -> None:
    message = config_error(profile={"min_sample": 3})
    assert "Unknown field of profile 'min_sample'" in message
    assert "Did you mean 'min_samples'?" in message
    assert "anchors" in message
    assert "'runtime'" in config_error(runtim="litert")


def test_numbers_in_settings_may_be_written_with_an_exponent() -> None:
    # YAML 1.1 takes 1e-3 for a text
    settings = yaml.safe_load("{learning_rate: 1e-3, optimizer: adamw}")
    config = make_config({"data": "x", "train": {"settings": settings}}, source="")
    assert config.train.settings == {"learning_rate": 1e-3, "optimizer": "adamw"}


def test_a_written_configuration_is_read_back(tmp_path: Path) -> None:
    config = make_config(
        {"data": "x.npz", "space": {"name": "mobile", "classes": 10}, "bounds": {"params": "1M"}},
        source="",
    )
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_options_go_over_the_project_field_by_field() -> None:
    project = {"data": "cifar10", "search": {"strategy": "evolution", "settings": {"trials": 9}}}
    options = {"data": None, "search": {"steps": 3, "settings": {"trials": 4}}}
    assert merged(project, options) == {
        "data": "cifar10",
        "search": {"strategy": "evolution", "settings": {"trials": 4}, "steps": 3},
    }


def test_another_space_starts_from_its_own_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = {"data": "cifar10", "space": {"name": "mobile-small", "kernels": [3]}}
    Path("nasdeploy.yaml").write_text(yaml.safe_dump(project))
    assert config_from({"space": {"classes": 4}}).space_parameters == {"kernels": [3], "classes": 4}
    other = config_from({"space": {"name": "mobile"}})
    assert (other.space_name, other.space_parameters) == ("mobile", {})


def test_data_come_from_the_project_or_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"nasdeploy\.yaml"):
        config_from({})
    Path("nasdeploy.yaml").write_text("data: cifar10\n")
    assert config_from({}).data == "cifar10"


def test_the_newest_table_is_one_of_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tables").mkdir()
    for number, runtime in enumerate(("litert", "onnxruntime")):
        config = make_config({"data": "x", "runtime": runtime}, source="")
        path = table_path(config, (1, 28, 28))
        path.touch()
        os.utime(path, (number, number))
    assert "onnxruntime" in newest_table("local").name
    assert "litert" in newest_table("local", runtime="litert").name
    with pytest.raises(UsageError, match="--threads 2"):
        newest_table("local", threads=2)

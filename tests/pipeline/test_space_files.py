from __future__ import annotations

from pathlib import Path

import pytest
from small_run import Cli

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.space_files import resolved

TINY = Path(__file__).parents[2] / "examples" / "spaces" / "tiny.yaml"


def test_a_file_becomes_a_configuration_and_options_override_it() -> None:
    config = resolved({"name": str(TINY), "classes": 7})
    assert config["name"] == "tiny" and config["classes"] == 7
    run = make_config({"space": str(TINY), "data": "none"}, source="options")
    assert run.space_name == "tiny"
    assert run.space_parameters["stages"][1]["blocks"] == 2
    assert resolved({"name": "mobile"}) == {"name": "mobile"}


@pytest.mark.parametrize(
    ("line", "before", "after", "message"),
    [
        (21, "expand: 6}", "expand: 0}", "0 is not a whole number of at least 1"),
        (19, "mbconv: {kernel: 3, expand: 3}", "mbconf: {kernel: 3}", "Did you mean 'mbconv'"),
        (16, "blocks: 2 ", "block: 2 ", "Did you mean 'blocks'"),
        (8, "classes: 10", "classes: ten", "'ten' is not a whole number"),
    ],
)
def test_what_is_wrong_names_the_line(
    line: int, before: str, after: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.read_text().replace(before, after, 1))
    with pytest.raises(BadInput, match=rf"mine\.yaml, line {line}: .*{message}"):
        resolved({"name": str(path)})


def test_a_file_that_is_not_there_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        resolved({"name": "nowhere.yaml"})
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(BadInput, match="a space is a mapping"):
        resolved({"name": str(path)})


def test_the_command_line_shows_a_file_and_a_class(cli: Cli, tmp_path: Path) -> None:
    shown = cli("space", "show", str(TINY), "--format", "json")
    assert shown.code == 0 and '"low.block1"' in shown.out
    refused = cli("space", "show", "nowhere:Space")
    assert refused.code == 2 and "there is no module nowhere" in refused.err
    every = cli("space", "list")
    assert every.code == 0
    for name in ("darts", "enas-macro", "enas-micro", "mobile-elastic", "nasbench201", "pnas"):
        assert name in every.out

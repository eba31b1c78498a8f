"""Tables in the format of ProxylessNAS: read into ours, and written back.

Cai et al., "ProxylessNAS" (ICLR 2019, arXiv:1812.00332), whose code reads such files for the
latency term of section 3.2. An entry is named by the layer, its shapes (height x width x channels)
and its attributes, and holds how often it was measured, the mean in milliseconds and the variance::

    expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0:
      count: 168
      mean: 11.297755952380951
      var: 0.12271979780823049

``idskip`` says whether the block has a residual connection. In our operators that follows from the
shapes (it is there exactly when input and output are alike), so it is checked and left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nasdeploy import durable
from nasdeploy.errors import BadInput, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.latency_tables.rows import Row
from nasdeploy.latency_tables.table import LatencyTable, check

_SHAPES = r"input:(\d+)x(\d+)x(\d+)-output:(\d+)x(\d+)x(\d+)"
_CONV = re.compile(rf"(Conv|Conv_1)-{_SHAPES}")
_BLOCK = re.compile(rf"expanded_conv-{_SHAPES}-expand:(\d+)-kernel:(\d+)-stride:(\d+)-idskip:(\d)")
_LOGITS = re.compile(r"Logits-input:(\d+)x(\d+)x(\d+)-output:(\d+)")
_KERNELS = {"Conv": 3, "Conv_1": 1}  # the format does not say: the stem is 3x3, the features 1x1


def read_proxylessnas(
    path: Path,
    *,
    device: str,
    runtime: str = "litert",
    precision: str = "fp32",
    threads: int | None = None,
    **header: Any,
) -> LatencyTable:
    """Read a file of the original format.

    Args:
        device, runtime, precision, threads, header: What the format does not say; `header` takes
            further fields of `LatencyTable`, such as `source` and `licence`.
    Raises: `BadInput` naming the entry that is not of the format.
    """
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise BadInput(f"The table {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not YAML, which tables of ProxylessNAS are.") from error
    if not isinstance(entries, dict) or not entries:
        raise BadInput(f"{path} is not a table of ProxylessNAS: it has no entries.")
    ops: dict[str, Row] = {}
    for name, entry in entries.items():
        key = str(op_key(str(name)))
        if key in ops:
            raise BadInput(f"{path} has two entries for {key}, the second is {name!r}.")
        try:
            ops[key] = Row(
                n=int(entry["count"]), mean_ms=float(entry["mean"]), var_ms2=float(entry["var"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"The entry {name!r} of {path} does not have a count, a mean and a var."
            ) from error
    table = LatencyTable(
        device=device,
        runtime=runtime,
        precision=precision,
        threads=threads,
        origin="published",
        spaces=_spaces(ops),
        ops=ops,
        **header,
    )
    check(table)
    return table


def write_proxylessnas(table: LatencyTable, path: Path) -> None:
    """Write the rows in the original format; `UsageError` if it cannot express one of them."""
    entries: dict[str, dict[str, float]] = {}
    for key, row in table.ops.items():
        if row.mean_ms is None or row.var_ms2 is None or row.n is None:
            raise UsageError(
                f"The row of {key} lacks n, mean or variance, and tables of ProxylessNAS have "
                "these three."
            )
        entries[entry_name(OpKey.parse(key))] = {
            "count": row.n,
            "mean": row.mean_ms,
            "var": row.var_ms2,
        }
    durable.write_text(path, yaml.safe_dump(entries))


def op_key(name: str) -> OpKey:
    """Our operator for an entry's name; `BadInput` if it has none."""
    if match := _CONV.fullmatch(name):
        height, width, channels, out_height, out_width, out = map(int, match.groups()[1:])
        stride = math.ceil(height / out_height)
        key = OpKey.of(
            "conv_bn_relu6",
            [(channels, height, width)],
            kernel=_KERNELS[match[1]],
            out=out,
            stride=stride,
        )
    elif match := _BLOCK.fullmatch(name):
        numbers = map(int, match.groups())
        height, width, channels, out_height, out_width, out, expand, kernel, stride, skip = numbers
        if bool(skip) != (stride == 1 and channels == out):
            raise BadInput(
                f"The entry {name!r} says idskip:{skip}, and a block here has a residual "
                "connection exactly when its input and output are alike."
            )
        key = OpKey.of(
            "mbconv",
            [(channels, height, width)],
            expand=expand,
            kernel=kernel,
            out=out,
            stride=stride,
        )
    elif match := _LOGITS.fullmatch(name):
        height, width, channels, classes = map(int, match.groups())
        return OpKey.of("classifier", [(channels, height, width)], classes=classes)
    else:
        raise BadInput(f"{name!r} is not the name of an entry in a table of ProxylessNAS.")
    if (math.ceil(height / stride), math.ceil(width / stride)) != (out_height, out_width):
        raise BadInput(f"The entry {name!r} has an output that its stride does not lead to.")
    return key


def entry_name(key: OpKey) -> str:
    """The entry's name for our operator; `UsageError` if the format has none."""
    has, (channels, height, width) = _numbers(key), key.input_shapes[0]
    inputs = f"input:{height}x{width}x{channels}"
    if key.kind == "classifier":
        return f"Logits-{inputs}-output:{has['classes']}"
    stride, out = has.get("stride", 1), has.get("out", channels)
    shapes = f"{inputs}-output:{math.ceil(height / stride)}x{math.ceil(width / stride)}x{out}"
    if key.kind == "conv_bn_relu6":
        for layer, kernel in _KERNELS.items():
            if has["kernel"] == kernel:
                return f"{layer}-{shapes}"
    elif key.kind == "mbconv":
        skip = int(stride == 1 and channels == out)
        return (
            f"expanded_conv-{shapes}-expand:{has['expand']}-kernel:{has['kernel']}"
            f"-stride:{stride}-idskip:{skip}"
        )
    raise UsageError(f"Tables of ProxylessNAS have no name for the operator {key}.")


def _numbers(key: OpKey) -> dict[str, int]:
    return {name: value for name, value in key.attributes if isinstance(value, int)}


def _spaces(ops: Mapping[str, Row]) -> tuple[dict[str, Any], ...]:
    """The space `mobile` at the shape of the table's stem and head, if it has one of each."""
    keys = [OpKey.parse(key) for key in ops]
    stems = [key for key in keys if key.kind == "conv_bn_relu6" and key.attribute["kernel"] == 3]
    heads = [key for key in keys if key.kind == "classifier"]
    if len(stems) != 1 or len(heads) != 1 or stems[0].attribute["out"] != 32:
        return ()
    return (
        {
            "name": "mobile",
            "input_shape": list(stems[0].input_shapes[0]),
            "classes": heads[0].attribute["classes"],
            "width_mult": 1.0,
        },
    )

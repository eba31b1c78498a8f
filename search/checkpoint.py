"""Checkpoints: whole or absent, plain data and tensors, and tied to what they belong to."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nasdeploy import durable
from nasdeploy.errors import BadInput, UsageError


def save(path: Path, content: Mapping[str, Any], *, identity: Mapping[str, Any]) -> None:
    """Write `content`; `identity` is plain data that decides what it belongs to.

    Raises: `OutOfResources` on a full disk; what was there before is still there.
    """
    # through memory: on a full disk torch's own writer fails with an error that does not say so
    buffer = io.BytesIO()
    torch.save({"identity": dict(identity), "content": dict(content)}, buffer)
    durable.write_bytes(path, buffer.getvalue())


def load(path: Path, *, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `save` wrote, or None if there is no such file.

    Raises: `BadInput` for a damaged file, `UsageError` naming the first difference where it
        belongs to something else: going on from it would give neither the one nor the other.
    """
    if not path.exists():
        return None
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        found, content = stored["identity"], stored["content"]
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise BadInput(
            f"{path} is not a readable checkpoint ({type(error).__name__}): "
            "remove it to begin from the start."
        ) from error
    for name in sorted({*found, *identity}):
        if found.get(name) != identity.get(name):
            raise UsageError(
                f"{path} belongs to another run: {name} was {found.get(name)!r} and is now "
                f"{identity.get(name)!r}. Take the former back, or write to another folder."
            )
    return dict(content)

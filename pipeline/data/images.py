"""Where images live: in memory, or on the disk and decoded when they are needed.

Both hand out uint8 batches at one shape; neither runs a Python loop per image in the training
process. What is random about a batch depends on the seed that comes with the request alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from nasdeploy.errors import BadInput

Shape = tuple[int, int, int]
"""(channels, height, width) of one image."""

SHIFT = 1 / 16
"""Of a side. He et al. (arXiv:1512.03385, section 4.2) move 32 pixels by 4, which pays off over
hundreds of epochs; a search and the training of its winner are over after a few."""


@dataclass(frozen=True, slots=True)
class Augment:
    """Random crops, and mirrored images where a mirrored image still shows its class."""

    seed: int
    flip: bool


class Images(Protocol):
    """Labelled images at one shape."""

    @property
    def shape(self) -> Shape: ...

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""
        ...

    def stream(self, batches: Sequence[Tensor], augment: Augment | None = None) -> Iterator[Tensor]:
        """For each (b,) tensor of indices the images, (b, channels, height, width) uint8.

        Raises: `BadInput` naming the file that cannot be decoded.
        """
        ...

    def subset(self, indices: Tensor) -> Images: ...

    def reshaped(self, shape: Shape) -> Images:
        """The same images, handed out at another shape: resized to cover it and cut in the middle,
        grey repeated to three channels, colour weighted to grey."""
        ...


def fit(images: Tensor, shape: Shape) -> Tensor:
    """(n, c, h, w) uint8 at another shape, as `Images.reshaped` says."""
    channels, height, width = shape
    if images.shape[1] != channels:
        if images.shape[1] == 1:
            images = images.expand(-1, channels, -1, -1)
        else:
            grey = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601
            images = (images * grey).sum(1, keepdim=True).round().to(torch.uint8)
    if images.shape[2:] == (height, width):
        return images
    scale = max(height / images.shape[2], width / images.shape[3])
    cover = [
        max(height, round(images.shape[2] * scale)),
        max(width, round(images.shape[3] * scale)),
    ]
    # through float: torch's uint8 resize takes another path for each memory layout
    resized = F.interpolate(images.float(), cover, mode="bilinear", antialias=True)
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    cut = resized[:, :, top : top + height, left : left + width]
    return cut.round().clamp(0, 255).to(torch.uint8)


def shifted(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Each image moved by up to `SHIFT` of its sides, zeros where nothing was, half mirrored.

    One gather for the whole batch: (n, c, h, w) in, the same out, channels last in memory.
    """
    n, _, height, width = images.shape
    pad_y, pad_x = round(height * SHIFT), round(width * SHIFT)
    top = torch.randint(2 * pad_y + 1, (n, 1, 1), generator=generator)
    left = torch.randint(2 * pad_x + 1, (n, 1, 1), generator=generator)
    mirrored = torch.rand((n, 1, 1), generator=generator) < (0.5 if flip else 0.0)
    rows = top + torch.arange(height).view(1, -1, 1)
    columns = torch.arange(width).view(1, 1, -1)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    padded = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    return padded[torch.arange(n).view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images held as one uint8 tensor.

    Attributes:
        pixels: (n, c, h, w) uint8, as they were read.
        labels: (n,) int64.
        shape: What is handed out; batches are fitted on the fly.
    """

    pixels: Tensor
    labels: Tensor
    shape: Shape

    def stream(self, batches: Sequence[Tensor], augment: Augment | None = None) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(augment.seed if augment else 0)
        for indices in batches:
            images = fit(self.pixels[indices], self.shape)
            yield shifted(images, generator, flip=augment.flip) if augment else images

    def subset(self, indices: Tensor) -> InMemory:
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def reshaped(self, shape: Shape) -> InMemory:
        return replace(self, shape=shape)


def decode(path: Path, channels: int) -> Image.Image:
    """An image file, upright, in grey or RGB; `BadInput` if it is damaged."""
    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file)
            return upright.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(
            f"{path} cannot be read as an image ({error}): replace or remove it."
        ) from error


def to_tensor(image: Image.Image) -> Tensor:
    """(c, h, w) uint8."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1)


def _random_box(
    size: tuple[int, int], shape: Shape, rng: random.Random
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of 35 to 100 % of the area, sides off by at most 4:3.

    Szegedy et al. (arXiv:1409.4842), section 6; from 8 % there, which small networks underfit.
    """
    width, height = size
    area = rng.uniform(0.35, 1.0)
    aspect = shape[2] / shape[1] * rng.uniform(3 / 4, 4 / 3)
    cut_height = (area * width * height / aspect) ** 0.5
    cut_width, cut_height = min(width, cut_height * aspect), min(height, cut_height)
    left, top = rng.uniform(0, width - cut_width), rng.uniform(0, height - cut_height)
    right, bottom = max(left + 1, left + cut_width), max(top + 1, top + cut_height)
    return int(left), int(top), int(right), int(bottom)


class _Batches(Dataset[Tensor | str]):
    """Item i is batch i, decoded; a file that cannot be decoded comes back as its message, since
    an exception would cross the process border with a traceback in its text."""

    def __init__(
        self,
        paths: Sequence[Path],
        batches: Sequence[Tensor],
        shape: Shape,
        augment: Augment | None,
    ) -> None:
        self.paths, self.batches, self.shape, self.augment = paths, batches, shape, augment

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor | str:
        try:
            return torch.stack([self._image(int(index)) for index in self.batches[number]])
        except BadInput as error:
            return str(error)

    def _image(self, index: int) -> Tensor:
        image = decode(self.paths[index], self.shape[0])
        if self.augment is None:
            return fit(to_tensor(image)[None], self.shape)[0]
        rng = random.Random(f"{self.augment.seed}/{index}")
        image = image.crop(_random_box(image.size, self.shape, rng))
        resized = image.resize((self.shape[2], self.shape[1]), Image.Resampling.BILINEAR)
        if self.augment.flip and rng.random() < 0.5:
            resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(resized)


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Image files, decoded by worker processes a batch at a time."""

    paths: Sequence[Path]
    labels: Tensor
    shape: Shape

    def stream(self, batches: Sequence[Tensor], augment: Augment | None = None) -> Iterator[Tensor]:
        loader = DataLoader(
            _Batches(self.paths, batches, self.shape, augment),
            batch_size=None,
            num_workers=min(len(batches), os.cpu_count() or 1),
            generator=torch.Generator().manual_seed(0),  # else it draws from the global one
        )
        for batch in loader:
            if isinstance(batch, str):
                raise BadInput(batch)
            yield batch

    def subset(self, indices: Tensor) -> OnDisk:
        return replace(
            self, paths=[self.paths[i] for i in indices.tolist()], labels=self.labels[indices]
        )

    def reshaped(self, shape: Shape) -> OnDisk:
        return replace(self, shape=shape)

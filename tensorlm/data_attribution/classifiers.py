"""Small bilinear classifiers in great number: what they are, how they are trained, what they say of an example, and the digits for it."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from tensorlm.checks import DTYPES, require, require_counts, require_number, require_one_of, require_rows, require_whole, unfit
from tensorlm.data import load_digits
from tensorlm.tensors import CPTensor

OPTIMISERS, DIVISORS, OUTCOMES = ("sgd", "adam", "muon"), ("present", "batch"), ("loss", "margin")
NAMED_MODELS, MODELS_AT_A_TIME = 5, 64  # how many an error names one by one; how many answer at once


class Classifiers(NamedTuple):
    """Many models `logits = P((A1 x) * (A2 x))` without bias; a constant column of x stands for one.

    `left` and `right` (A1, A2) are (models, hidden, inputs), `down` (P) is (models, classes, hidden).

    >>> one = torch.ones(3, 2, 4)
    >>> models = Classifiers(one, one, torch.ones(3, 5, 2))
    >>> models.logits(torch.ones(7, 4)).shape, models.model(-1).size, models.cp(0)
    (torch.Size([3, 7, 5]), 1, CPTensor(out=5, hidden=2, width=4, torch.float32, cpu))
    """

    left: Tensor
    right: Tensor
    down: Tensor

    @property
    def size(self) -> int:
        """How many models there are (`len` would count the three factors)."""
        return len(self.left)

    def features(self, x: Tensor) -> Tensor:
        """The products (A1 x) * (A2 x) of the hidden units: x (n, inputs) -> (models, n, hidden)."""
        require_rows(x, self.left.shape[-1])
        left, right = (x @ factor.flatten(0, 1).mT for factor in (self.left, self.right))  # one product for all models
        return rearrange(left * right, "n (models hidden) -> models n hidden", models=self.size)

    def logits(self, x: Tensor) -> Tensor:
        """x (n, inputs) -> (models, n, classes)."""
        return self.features(x) @ self.down.mT

    def model(self, index: int | slice) -> "Classifiers":
        """The model at `index`, or those of a slice, as Classifiers again; ValueError for a number that none has."""
        if not isinstance(index, slice):
            require_whole("index", index, -self.size, self.size - 1)
            index = slice(index, index + 1 or None)
        return Classifiers(*(factor[index] for factor in self))

    def cp(self, index: int) -> CPTensor:
        """The tensor of one model, with which chapters 06 to 09 work."""
        left, right, down = (factor[0] for factor in self.model(index))
        return CPTensor(D=down, L=left, R=right)

    def nonfinite(self) -> list[int]:
        """The models that hold NaN or infinity: training has diverged."""
        sizes = torch.stack([factor.flatten(1).abs().amax(1) for factor in self])
        return (~sizes.isfinite().all(0)).nonzero().flatten().tolist()

    def require_finite(self) -> None:
        """Raise ValueError, which names the models, if any of them holds NaN or infinity."""
        if diverged := self.nonfinite():
            named = ", ".join(map(str, diverged[:NAMED_MODELS])) + (", ..." if len(diverged) > NAMED_MODELS else "")
            raise ValueError(f"models must be finite, got NaN or infinity in {len(diverged)} of {self.size}: {named}; "
                             "train them with a lower rate, or leave them out before anything is ranked")


def outcomes(models: Classifiers, x: Tensor, y: Tensor, kind: str = "margin") -> Tensor:
    """What every model says of every example: x (n, inputs), y (n,) -> (models, n).

    | kind | value |
    | --- | --- |
    | loss | minus the log of the probability of the right class, in nats |
    | margin | the right logit minus the logsumexp of the others: the log of the odds of the right class |

    loss = log(1 + exp(-margin)), so both say the same; but the loss of an example that is fitted well is zero in float32,
    while its margin is not. Raises ValueError for another kind, other shapes, and where a model is not finite.

    >>> zero = torch.zeros(1, 2, 4)
    >>> outcomes(Classifiers(zero, zero, torch.zeros(1, 10, 2)), torch.ones(1, 4), torch.tensor([3]), "loss")
    tensor([[2.3026]])
    """
    require_one_of("kind", kind, OUTCOMES)
    classes = models.down.shape[1]
    require_labels(y, len(x), classes)
    models.require_finite()
    own = torch.nn.functional.one_hot(y, classes).bool()
    found = []
    for start in range(0, models.size, MODELS_AT_A_TIME):  # bounded memory, and faster
        logits = models.model(slice(start, start + MODELS_AT_A_TIME)).logits(x)
        right = logits[:, own]
        others = logits.masked_fill(own, -math.inf).logsumexp(2)
        found.append(torch.nn.functional.softplus(others - right) if kind == "loss" else right - others)
    return torch.cat(found)


def require_labels(y: Any, count: int, classes: int | None = None) -> None:
    """Raise ValueError unless y holds `count` classes from 0 on, as int64."""
    wanted = f"{count} classes 0 .. {'...' if classes is None else classes - 1} as a vector of int64"
    fits = isinstance(y, Tensor) and y.dtype == torch.int64 and y.shape == (count,) and count
    require(fits and y.min() >= 0 and (classes is None or y.max() < classes), "y", y, wanted)


@dataclass(frozen=True)
class Recipe:
    """How every model of a bank is trained.

    | setting | meaning |
    | --- | --- |
    | optimiser, momentum | "sgd" with momentum, "adam" (momentum is its first beta, the second is 0.999) or "muon" |
    | rate | at the first step; it falls to zero as half a cosine |
    | weight_decay | times the weight, added to the gradient (L2) |
    | epochs, batch | passes over the examples in batches of that size; one that is left out leaves its place empty |
    | hidden | products of each model |
    | divide | the gradient of a batch by the sum of the weights that are "present" in it, or by the size of the "batch" |
    | dtype | torch.float32 or torch.float64 |

    "present" keeps the size of a step whatever is left out; "batch" keeps what each example adds, so that leaving
    examples out also makes the weight decay heavier. Raises ValueError for a value that does not fit.

    >>> Recipe(epochs=3).rates(1000)[::20]
    tensor([0.5000, 0.3750, 0.1250], dtype=torch.float64)
    """

    optimiser: str = "sgd"
    rate: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 1e-3
    epochs: int = 20
    batch: int = 50
    hidden: int = 16
    divide: str = "present"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        require_one_of("optimiser", self.optimiser, OPTIMISERS)
        require_one_of("divide", self.divide, DIVISORS)
        require_counts(epochs=self.epochs, batch=self.batch, hidden=self.hidden)
        for name in ("rate", "momentum", "weight_decay"):
            require_number(name, getattr(self, name), least=0)
        require(self.momentum < 1, "momentum", self.momentum, "below 1")
        if self.dtype not in DTYPES:
            raise unfit("dtype", self.dtype, "torch.float32 or torch.float64")

    def steps(self, examples: int) -> int:
        """Steps of a training on that many examples; the last batch of an epoch may be smaller."""
        return self.epochs * math.ceil(examples / self.batch)

    def rates(self, examples: int) -> Tensor:
        """The rate at each step t of T: rate (1 + cos(pi t / T)) / 2, in float64."""
        steps = self.steps(examples)
        return self.rate * (1 + torch.cos(math.pi * torch.arange(steps, dtype=torch.float64) / steps)) / 2


class Examples(NamedTuple):
    """Training and test examples: rows x (n, inputs) with classes y (n,)."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def centred_digits(count: int = 1000, dtype: torch.dtype = torch.float32) -> Examples:
    """The first `count` training images of `load_digits` and all its test images, as rows of 65 inputs.

    From the pixels the mean image of these training images is subtracted; then all are divided by one number, so that
    the training images have a mean squared length of 1; a last column is 1.

    >>> digits = centred_digits()
    >>> digits.x.shape, digits.test_x.shape, round(float(digits.x.square().sum(1).mean()), 3)
    (torch.Size([1000, 65]), torch.Size([355, 65]), 2.0)
    """
    data = load_digits()
    require_whole("count", count, 1, len(data.train_x))
    train, test = data.train_x[:count].double(), data.test_x.double()
    mean = train.mean(0)
    scale = (train - mean).square().sum(1).mean().sqrt()
    rows = [torch.nn.functional.pad((images - mean) / scale, (0, 1), value=1.0).to(dtype) for images in (train, test)]
    return Examples(rows[0], data.train_y[:count], rows[1], data.test_y)

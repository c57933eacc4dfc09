"""Contributions with names, that sum exactly to a change; their shares, and how far the sum is off."""

from dataclasses import dataclass

from torch import Tensor

from tensorlm.steering.tables import Table, largest


@dataclass(frozen=True, eq=False)
class Shares:
    """`values` (batch, terms), one name a term, and the `change` (batch,) that they sum to, computed without them.

    >>> import torch
    >>> shares = Shares(("self", "cross"), torch.tensor([[1.0, -3.0]]), torch.tensor([-2.0]))
    >>> shares.absolute(), shares.error()
    (tensor([[0.2500, 0.7500]]), 0.0)
    >>> print(shares.table())
    term     mean  share of the change
    cross  -3.000                1.500
    self    1.000               -0.500
    """

    names: tuple[str, ...]
    values: Tensor
    change: Tensor

    def __post_init__(self):
        if self.values.shape != (len(self.change), len(self.names)):
            raise ValueError(f"values must have shape {(len(self.change), len(self.names))}, got {tuple(self.values.shape)}")

    def __getitem__(self, name: str) -> Tensor:
        """The contribution of one term, (batch,); KeyError names the terms there are."""
        if name not in self.names:
            raise KeyError(f"no term {name!r}; there are {self.names}")
        return self.values[:, self.names.index(name)]

    def absolute(self) -> Tensor:
        """|c| / sum |c| for every prompt, (batch, terms): shares that scaling all terms alike leaves as they are."""
        return self.values.abs() / self.values.abs().sum(-1, keepdim=True)

    def of_the_change(self) -> Tensor:
        """Mean contribution over the mean change, (terms,): they sum to 1, and single ones may lie below 0 or above 1.

        Raises ValueError where the mean change is 0: there is nothing to share out.
        """
        if self.change.mean() == 0:
            raise ValueError("the mean change is 0: its terms have no shares of it")
        return self.values.mean(0) / self.change.mean()

    def error(self) -> float:
        """Largest |sum of terms - change|, relative to the largest sum of |terms|."""
        return ((self.values.sum(-1) - self.change).abs().max() / self.values.abs().sum(-1).max().clamp_min(1e-300)).item()

    def table(self, count: int = 10) -> Table:
        """The terms with the largest mean over prompts."""
        mean = self.values.mean(0)
        share = mean / self.change.mean()
        return Table(("term", "mean", "share of the change"),
                     tuple((self.names[i], mean[i].item(), share[i].item()) for i in largest(mean, count)))

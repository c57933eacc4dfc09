"""Compact proofs: a lower bound on accuracy over every input of a finite domain, shorter than running them all.

The domain is modular addition. A bilinear layer on a pair of one-hot vectors, D[L_a * R_b], is a tensor T_cab of logits; of
the answer c = a + b (mod p) only the *structured part* g(c - a - b) is needed, the mean of T over all entries of one shift.
It comes from Fourier transforms of the factors, and the norm of the rest from their Gram matrices, both exactly:

| method | what it looks at | multiply-adds |
| --- | --- | --- |
| every pair | all logits of all pairs | hidden p^3 |
| shifts | for each shift how much T varies against the right one | 2.5 hidden^2 p log2 p + 4.5 hidden^2 p |
| norm | the norm of T - g | 3 hidden^2 p |

Every method is sound: it never claims more than is true. An exact residual can be part of the loss, so that a layer is
trained *for its proof* (`train_modular`). Trading the length of a proof against its tightness: Gross et al., arXiv
2406.11779; for modular addition with ReLU units a bound linear in their number, by reading the layer as a quadrature: Yip et
al., arXiv 2412.03773. Quadratic networks that solve modular addition by Fourier features: Gromov, arXiv 2301.02679.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.checks import require, require_counts, require_number, require_one_of, require_whole
from tensorlm.tensors.cp import CPTensor, require_finite_cp

METHODS = ("every pair", "shifts", "norm")
ROUNDING = 1e-11  # share of the sums of squares (of absolute terms) by which every bound is widened
FFT_COST = 1.25  # multiply-adds of a transform of n real numbers, over n log2 n: a quarter of 5 n log2 n operations
LEARNING_RATE, BETAS, WARMUP_STEPS, COOLDOWN_SHARE = 0.01, (0.9, 0.98), 100, 0.3
GENERALISED, ASKED_EVERY = 0.99, 25  # held-out accuracy that counts, and how often it is asked for, in steps


class Proof(NamedTuple):
    """At most `failing` of `inputs` are answered wrongly, at a price of `multiply_adds`. A proof may be vacuous.

    `margin`, where the method gives one, is the least lead of an answer over all inputs, or a lower bound of it.
    """

    method: str
    inputs: int
    failing: int
    multiply_adds: int
    margin: float = math.nan

    @property
    def share(self) -> float:
        """The share of all inputs that is proven right; 0 where nothing is."""
        return max(0.0, 1 - self.failing / self.inputs)


class ModularRun(NamedTuple):
    """A layer, the step at which 99 % of the held-out pairs were right (None: never), losses in nats a pair."""

    layer: CPTensor
    generalised_at: int | None
    train_loss: float
    held_out_loss: float


def modular_proof(cp: CPTensor, method: str = "norm") -> Proof:
    """Bound the pairs (a, b) for which some logit reaches that of (a + b) mod p; `cp` (out = width = p) has T as its `dense()`.

    A pair fails only if T_c - g_r >= T_(a+b) - g_0 + (g_0 - g_r) for some shift r = c - a - b. "norm": then the two rests have
    squares of at least gap^2 / 2 together, so that no more than 2 |T - g|^2 / gap^2 pairs can. "shifts": for each r the
    difference T_r - T_0 has a mean and a variance over the pairs, and Cantelli's inequality bounds where it reaches 0. Raises
    ValueError for another shape, NaN or infinity.

    >>> proof = modular_proof(fourier_layer(7, (1, 2, 3)))
    >>> proof.share, proof.multiply_adds < modular_proof(fourier_layer(7, (1, 2, 3)), "every pair").multiply_adds
    (1.0, True)
    """
    require_one_of("method", method, METHODS)
    cp = centred(cp).double()
    require_finite_cp("cp", cp)
    p, hidden = cp.out, cp.hidden
    transform = math.ceil(FFT_COST * p * math.log2(p))
    structured = 3 * hidden * transform + 2 * hidden * p
    if method == "every pair":
        return Proof(method, p * p, wrong_pairs(cp), p * p * hidden * (p + 1))
    if method == "norm":
        return Proof(method, p * p, failing_by_norm(cp), 3 * hidden**2 * p + 2 * hidden**2 + structured)
    units = hidden * (hidden + 1) // 2
    correlations = units * (4 * transform + 7 * p) + hidden**2 * p + 2 * hidden * transform
    return Proof(method, p * p, failing_by_shifts(cp), correlations + structured)


def centred(cp: CPTensor) -> CPTensor:
    """The same answers: what adds one number to all logits of a pair is taken out. ValueError unless out = width."""
    require(cp.out == cp.width and cp.out > 1, "cp", cp, "with out = width, the modulus, at least 2")
    return CPTensor(cp.D - cp.D.mean(0), cp.L, cp.R)


def wrong_pairs(cp: CPTensor) -> int:
    """How many pairs have a logit that is as large as the right one."""
    p = cp.out
    wrong = 0
    for a in range(p):
        logits = (cp.L[:, a] * cp.R.mT) @ cp.D.mT  # (b, c)
        right = (a + torch.arange(p, device=logits.device)) % p
        own = logits.gather(1, right.unsqueeze(1))
        wrong += int((logits.scatter(1, right.unsqueeze(1), -math.inf) >= own).any(1).sum())
    return wrong


def structured_part(cp: CPTensor) -> Tensor:
    """g (p,): the mean of T_cab over the p^2 entries with c - a - b = r (mod p), from three Fourier transforms."""
    spectra = torch.fft.rfft(cp.D, dim=0) * torch.fft.rfft(cp.L, dim=1).mT.conj() * torch.fft.rfft(cp.R, dim=1).mT.conj()
    return torch.fft.irfft(spectra.sum(1), n=cp.out) / cp.out**2


def squared_norm(cp: CPTensor) -> Tensor:
    """|T|^2 from three Gram matrices."""
    return ((cp.D.mT @ cp.D) * (cp.L @ cp.L.mT) * (cp.R @ cp.R.mT)).sum()


def unstructured_share(cp: CPTensor) -> Tensor:
    """|T - g|^2 / |T|^2, constants over c left out: what every proof here has to bound. Gradients flow through it.

    >>> float(unstructured_share(fourier_layer(7, (2,)))) < 1e-12
    True
    """
    cp = centred(cp)
    return 1 - cp.out**2 * structured_part(cp).square().sum() / squared_norm(cp)


def failing_by_norm(cp: CPTensor) -> int:
    p, g = cp.out, structured_part(cp)
    gap = float((g[0] - g[1:]).min())
    if gap <= 0:
        return p * p
    size = float(((cp.D.mT @ cp.D) * (cp.L @ cp.L.mT) * (cp.R @ cp.R.mT)).abs().sum())
    rest = float(squared_norm(cp) - p**2 * g.square().sum()) + ROUNDING * size
    return math.floor(2 * max(rest, 0.0) / gap**2)


def failing_by_shifts(cp: CPTensor) -> int:
    p, g = cp.out, structured_part(cp)
    gaps = g[0] - g[1:]
    if float(gaps.min()) <= 0:
        return p * p
    own, crossed = shift_products(cp)
    variances = (own[1:] - 2 * crossed[1:] + own[0]) / p**2 - gaps.square() + ROUNDING * (own[1:] + own[0]) / p**2
    variances = variances.clamp_min(0)
    return math.floor(float((p**2 * variances / (variances + gaps.square())).sum()))


def shift_products(cp: CPTensor) -> tuple[Tensor, Tensor]:
    """For every shift r the sums over pairs of T_r^2 and of T_r T_0, T_r(a, b) = T_(a+b+r)ab: (p,), (p,).

    Both are correlations along a + b, for each pair of hidden units: W_kl(s) = sum over a + b = s of L_ka L_la R_kb R_lb.
    """
    p, (first, second) = cp.out, torch.triu_indices(cp.hidden, cp.hidden, device=cp.D.device)
    spectra = torch.fft.rfft(cp.L[first] * cp.L[second]) * torch.fft.rfft(cp.R[first] * cp.R[second])
    outputs = torch.fft.rfft(cp.D.mT[first] * cp.D.mT[second])
    twice = torch.where(first == second, 1.0, 2.0).to(cp.D)
    own = torch.fft.irfft(torch.einsum("u,uw,uw->w", twice.to(spectra.dtype), spectra.conj(), outputs), n=p)
    weights = cp.D.new_zeros(cp.hidden, cp.hidden, p)
    weights[first, second] = torch.fft.irfft(spectra, n=p)
    weights[second, first] = weights[first, second]
    seen = torch.einsum("kls,sl->ks", weights, cp.D)
    crossed = torch.fft.irfft((torch.fft.rfft(seen).conj() * torch.fft.rfft(cp.D.mT)).sum(0), n=p)
    return own, crossed


def fourier_layer(p: int, frequencies: tuple[int, ...]) -> CPTensor:
    """The layer with T_cab = sum_f cos(2 pi f (a + b - c) / p) exactly, three hidden units a frequency (float64).

    cos(x + y - z) is a product of complex numbers, which takes three real multiplications instead of four (Gauss). Raises
    ValueError unless the frequencies are whole numbers from 1 to (p - 1) / 2.
    """
    require_whole("p", p, 3)
    angles = 2 * math.pi * torch.arange(p, dtype=torch.float64) / p
    rows: list[list[Tensor]] = [[], [], []]
    for f in frequencies:
        require_whole("frequencies", f, 1, (p - 1) // 2)
        cos, sin = (f * angles).cos(), (f * angles).sin()
        # of e^ia e^ib: real u1 - u3, imaginary u1 + u2, with u1 = cos a (cos b + sin b) and two more such products
        for row, parts in zip(rows, ((cos + sin, sin, -cos), (cos, sin - cos, cos + sin), (cos + sin, cos, sin))):
            row.extend(parts)
    require(frequencies, "frequencies", frequencies, "at least one")
    return CPTensor(torch.stack(rows[0], 1), torch.stack(rows[1]), torch.stack(rows[2]))


def train_modular(p: int, hidden: int, seed: int = 0, steps: int = 2000, penalty: float = 0.0, penalty_from: int = 0,
                  decay: float = 1.0, share: float = 0.5) -> ModularRun:
    """Train a bilinear layer on `share` of all pairs (cross-entropy, AdamW on all of them at once, float64).

    From step `penalty_from` on the loss has `penalty` times `unstructured_share`. That term sees no label, but it knows the
    form of the answer, a function of c - a - b, for held-out pairs too: a run with it says nothing about generalisation,
    unless it starts after a run has generalised without. Raises ValueError for sizes below 1, a share outside (0, 1].
    """
    require_counts(p=p, hidden=hidden, steps=steps)
    require_number("penalty", penalty, least=0)
    require_number("decay", decay, least=0)
    require_number("share", share, above=0, most=1)
    generator = torch.Generator().manual_seed(seed)
    D, L, R = (torch.nn.Parameter(torch.randn(p, hidden, dtype=torch.float64, generator=generator) * size)
               for size in (hidden**-0.5, 1.0, 1.0))
    train, held_out = torch.randperm(p * p, generator=generator).tensor_split([round(share * p * p)])
    optimizer = torch.optim.AdamW([D, L, R], lr=LEARNING_RATE, betas=BETAS, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(pace, steps=steps))
    generalised_at = None
    for step in range(steps):
        loss = pair_loss(D, L, R, train)[0]
        if penalty and step >= penalty_from:
            loss = loss + penalty * unstructured_share(CPTensor(D, L.mT, R.mT))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if generalised_at is None and len(held_out) and (step + 1) % ASKED_EVERY == 0:
            with torch.no_grad():
                generalised_at = step + 1 if pair_loss(D, L, R, held_out)[1] >= GENERALISED else None
    with torch.no_grad():
        losses = [float(pair_loss(D, L, R, pairs)[0]) if len(pairs) else math.nan for pairs in (train, held_out)]
    layer = CPTensor(*(matrix.detach().clone() for matrix in (D, L.mT.contiguous(), R.mT.contiguous())))
    return ModularRun(layer, generalised_at, *losses)


def pace(step: int, steps: int) -> float:
    """Share of the learning rate: up in the first steps, down in the last ones."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / max(1, round(COOLDOWN_SHARE * steps)))


def pair_loss(D: Tensor, L: Tensor, R: Tensor, pairs: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy and accuracy on pairs a p + b, of tables (p, hidden)."""
    p = len(D)
    a, b = pairs // p, pairs % p
    logits, right = (L[a] * R[b]) @ D.mT, (a + b) % p
    return F.cross_entropy(logits, right), float((logits.detach().argmax(1) == right).double().mean())

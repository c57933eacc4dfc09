"""The declared studies of exact expectations: networks at random, tails to 1e-7, and inputs that are not Gaussian."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.data import load_digits
from tensorlm.proofs.distributions import Distribution, Gaussian, Mixture, Moments, Samples
from tensorlm.proofs.forms import Quadratic
from tensorlm.proofs.moments import layer_mean, output_mean, output_moments, relu_moments
from tensorlm.proofs.tails import chi_squares, tail_probability
from tensorlm.studies import Row, Study
from tensorlm.tensors import CPTensor, compose, interaction

SAMPLES = 20_000  # behind a variance
TRUTH_SAMPLES = 200_000  # behind a mean that no formula gives
BLOCK = 10_000  # samples at a time
ONE_PERCENT = 0.01
TARGETS = tuple(10.0**-k for k in range(2, 8))
DIGIT_STEPS, DIGIT_BATCH, DIGIT_RATE, DIGIT_DECAY = 600, 128, 0.01, 0.3
SHARES = (0.1, 0.01)

Sampled = tuple[Tensor, Tensor]  # a mean and its squared standard errors


def random_matrix(rows: int, columns: int, generator: torch.Generator, gain: float = 1.0) -> Tensor:
    """Entries N(0, gain / columns), float64."""
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator) * math.sqrt(gain / columns)


def random_layer(width: int, hidden: int, generator: torch.Generator) -> CPTensor:
    return CPTensor(*(random_matrix(*size, generator) for size in ((width, hidden), (hidden, width), (hidden, width))))


def normal(width: int) -> Gaussian:
    return Gaussian(torch.zeros(width, dtype=torch.float64), torch.eye(width, dtype=torch.float64))


# Random networks

def bilinear_row(quantity: str, width: int, hidden: int, error: float, more: Row) -> Row:
    empty = dict(samples_for_1_percent="", with_control="", samples_of_its_cost="")
    row = dict(method="closure", truth="exact", truth_error=0.0, **empty)
    return dict(quantity=quantity, width=width, hidden=hidden, error=error, **{**row, **more})


def run_random_networks(seed: int, kind: str, width: int) -> list[Row]:
    """Rows of `proof_expectations`: networks of two and three layers, hidden = 2 width, inputs N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "relu":
        return relu_rows(width, generator)
    layers = [random_layer(width, 2 * width, generator) for _ in range(3)]
    two, three, inputs = compose(*layers[:2]), compose(*layers), normal(width)
    mean, costs = output_mean(two, inputs), sampling_costs(layers, inputs, generator)
    shape = two.layers[0].width, two.layers[0].hidden
    rows = [bilinear_row("mean of 2 layers", *shape, relative(output_mean(two, inputs, "closure"), mean),
                         dict(costs[0], method="exact", samples_of_its_cost=two_layer_cost(*shape) / sample_cost(2, *shape)))]
    whole = output_moments(two, inputs)
    truth = layer_mean(layers[2], whole.second)  # what `output_mean(three, inputs)` is
    rows.append(bilinear_row("mean of 3 layers", *shape, relative(output_mean(three, inputs, "closure"), truth), costs[1]))
    closed = output_moments(two, inputs, "closure").covariance
    rows.append(bilinear_row("covariance of 2 layers", *shape, relative(closed, whole.covariance), {}))
    return rows


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def two_layer_cost(width: int, hidden: int) -> float:
    """Multiply-adds of the exact mean of two layers: Gram matrices of L and R, D around them, the second layer."""
    return 2.5 * hidden**2 * width + 4 * hidden * width**2


def sample_cost(layers: int, width: int, hidden: int) -> float:
    return 3.0 * layers * hidden * width


def sampling_costs(layers: list[CPTensor], inputs: Gaussian, generator: torch.Generator) -> list[dict[str, float]]:
    """For two and for three layers how many samples have a relative error of 1 % in the mean, with control variates too.

    The controls are what the layers below write, whose means are exact: regressed on, they take variance away.
    """
    x = inputs.sample(SAMPLES, generator)
    written, found = x, []
    controls: list[Tensor] = []
    for number, layer in enumerate(layers):
        written = layer(written)
        if number:
            mean = output_mean(compose(*layers[:2]), inputs) if number == 1 else written.mean(0)
            variance = written.var(0).sum()
            known = torch.cat([part - part.mean(0) for part in controls], 1)
            rest = written - written.mean(0)
            rest = rest - known @ torch.linalg.lstsq(known, rest).solution
            left = rest.square().sum() / (len(x) - known.shape[1])
            needed = [float(part / mean.square().sum()) / ONE_PERCENT**2 for part in (variance, left)]
            found.append(dict(samples_for_1_percent=needed[0], with_control=needed[1]))
        controls.append(written)
    return found


def sampled_mean(network: Callable[[Tensor], Tensor], width: int, generator: torch.Generator) -> Sampled:
    """The mean over inputs N(0, 1), and squared standard errors."""
    count, total, squares = TRUTH_SAMPLES, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for _ in range(count // BLOCK):
        y = network(torch.randn(BLOCK, width, dtype=torch.float64, generator=generator))
        total, squares = total + y.sum(0), squares + y.square().sum(0)
    mean = total / count
    return mean, (squares / count - mean.square()) / count


def relu_rows(width: int, generator: torch.Generator) -> list[Row]:
    """The same of ReLU networks, whose covariances are propagated by one and by sixteen Hermite terms."""
    hidden, rows = 2 * width, []
    layers = [(random_matrix(hidden, width, generator, 2.0), random_matrix(width, hidden, generator)) for _ in range(3)]
    for depth in (2, 3):
        def network(x: Tensor, depth: int = depth) -> Tensor:
            for encoder, decoder in layers[:depth]:
                x = (x @ encoder.mT).relu() @ decoder.mT
            return x

        truth, errors = sampled_mean(network, width, generator)
        share = float(errors.sum().sqrt() / truth.norm())
        for order in (1, 16):
            moments = normal(width).moments
            for encoder, decoder in layers[:depth]:
                moments = relu_moments(encoder, decoder, moments, order)
            needed = float(errors.sum() * TRUTH_SAMPLES / truth.square().sum()) / ONE_PERCENT**2
            rows.append(bilinear_row(f"mean of {depth} layers", width, hidden, relative(moments.mean, truth), dict(
                method=f"covariance, {order} Hermite term{'s' if order > 1 else ''}", truth="sampled", truth_error=share,
                samples_for_1_percent=needed)))
    return rows


# Tails

def tail_case(seed: int, width: int, hidden: int) -> tuple[CPTensor, Quadratic, Gaussian]:
    """A random layer with two outputs, the form of their difference, and a Gaussian with a random mean and covariance."""
    generator = torch.Generator().manual_seed(seed)
    cp = CPTensor(*(random_matrix(*size, generator) for size in ((2, hidden), (hidden, width), (hidden, width))))
    root, mean = random_matrix(width, width, generator), 0.5 * torch.randn(width, dtype=torch.float64, generator=generator)
    return cp, difference(cp, 0, 1), Gaussian(mean, root @ root.mT)


def difference(cp: CPTensor, label: int, rival: int) -> Quadratic:
    """Output `label` less output `rival`, as a form of the input."""
    direction = torch.zeros_like(cp.D[:, 0])
    direction[label], direction[rival] = 1, -1
    zero = torch.zeros_like(cp.L[0])
    return Quadratic(interaction(cp, direction), zero, zero[0])


def thresholds_of(form: Quadratic, inputs: Gaussian, targets: tuple[float, ...] = TARGETS) -> Tensor:
    """The t with P(g > t) near each target (by the saddle point), by bisection from the mean up; six digits."""
    law, wanted = chi_squares(form, inputs), torch.tensor(targets, dtype=torch.float64)
    low, high = (torch.full_like(wanted, law.mean + far * math.sqrt(law.variance)) for far in (0, 100))
    for _ in range(60):
        middle = (low + high) / 2
        above = tail_probability(form, inputs, middle, "saddle") > wanted
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.tensor([float(f"{t:.6g}") for t in high.tolist()], dtype=torch.float64)


def run_tails(seed: int, method: str, width: int = 16, hidden: int = 16, count: int = 0) -> list[Row]:
    """Rows of `proof_tails`: P(logit difference > t) at thresholds whose exact tails are near 1e-2 ... 1e-7."""
    cp, form, inputs = tail_case(seed, width, hidden)
    thresholds = thresholds_of(form, inputs)
    exact = tail_probability(form, inputs, thresholds)
    errors = torch.zeros_like(exact)
    if method == "brute force":
        found, errors = counted(cp, inputs, thresholds, count, seed)
    elif method == "importance":
        found, errors = tilted(form, inputs, thresholds, count, seed)
    else:
        found = tail_probability(form, inputs, thresholds, method)
    return [dict(target=target, threshold=float(t), probability=float(p), standard_error=float(e),
                 relative_error=float(p / q - 1), samples=count)
            for target, t, p, e, q in zip(TARGETS, thresholds, found, errors, exact)]


def counted(cp: CPTensor, inputs: Gaussian, thresholds: Tensor, count: int, seed: int) -> Sampled:
    """Shares of `count` samples of the layer itself above each threshold, and their standard errors."""
    generator, hits, block = torch.Generator().manual_seed(1000 + seed), torch.zeros_like(thresholds), 20 * BLOCK
    for _ in range(count // block):
        y = cp(inputs.sample(block, generator))
        hits += (y[:, 0] - y[:, 1] > thresholds.unsqueeze(1)).sum(1)
    share = hits / count
    return share, (share * (1 - share) / count).sqrt()


def tilted(form: Quadratic, inputs: Gaussian, thresholds: Tensor, count: int, seed: int) -> Sampled:
    """Importance sampling: z from its law weighted by exp(s g), s the saddle point, so that half of the samples exceed t."""
    law, generator = chi_squares(form, inputs), torch.Generator().manual_seed(2000 + seed)
    shares, errors = [], []
    for t, s in zip(thresholds, law.saddle(thresholds)):
        left = 1 - 2 * s * law.weights
        total = squares = torch.zeros((), dtype=torch.float64)
        for _ in range(count // BLOCK):
            z = torch.randn(BLOCK, len(left), dtype=torch.float64, generator=generator) / left.sqrt()
            z = z + 2 * s * law.slopes / left
            g = law.constant + (law.weights * z.square() + 2 * law.slopes * z).sum(1)
            weights = torch.where(g > t, (law.cumulant(s) - s * g).exp(), 0)
            total, squares = total + weights.sum(), squares + weights.square().sum()
        shares.append(total / count)
        errors.append(((squares / count - shares[-1].square()) / count).sqrt())
    return torch.stack(shares), torch.stack(errors)


# Real inputs

def digit_layer(seed: int, steps: int = DIGIT_STEPS, hidden: int = 32) -> tuple[CPTensor, Tensor, Tensor]:
    """A bilinear layer trained on the training digits, float64, with all images (1,797, 64) and their classes."""
    data = load_digits()
    x, y = data.train_x.double(), data.train_y
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.nn.Parameter(random_matrix(*size, generator)) for size in ((10, hidden), (hidden, 64), (hidden, 64))]
    optimizer = torch.optim.AdamW(parts, lr=DIGIT_RATE, weight_decay=DIGIT_DECAY)
    for _ in range(steps):
        batch = torch.randint(len(x), (DIGIT_BATCH,), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(CPTensor(*parts)(x[batch]), y[batch]).backward()
        optimizer.step()
    cp = CPTensor(*(part.detach() for part in parts))
    return cp, torch.cat([x, data.test_x.double()]), torch.cat([y, data.test_y])


def run_digits(seed: int, inputs: str) -> list[Row]:
    """Rows of `proof_real_inputs`: moments and tails of a trained layer, fitted distributions against the images themselves.

    With inputs "gaussian draws" the images are replaced by as many draws of the Gaussian fitted to them: the method's test.
    """
    cp, images, classes = digit_layer(seed)
    if inputs == "gaussian draws":
        images = Gaussian.fit(images).sample(len(images), torch.Generator().manual_seed(seed))
    truth = output_moments(cp, Samples(images))
    fitted: dict[str, Distribution] = {"gaussian": Gaussian.fit(images)}
    if inputs == "digits":
        fitted["a gaussian a class"] = Mixture.fit(images, classes)
    return [row for name, distribution in fitted.items() for row in fitted_rows(cp, images, truth, name, distribution)]


def fitted_rows(cp: CPTensor, images: Tensor, truth: Moments, name: str, distribution: Distribution) -> list[Row]:
    found = output_moments(cp, distribution)
    errors = dict(mean_error=relative(found.mean, truth.mean), covariance_error=relative(found.covariance, truth.covariance))
    outputs, rows = cp(images), []
    for share in SHARES:
        ratios = []
        for label in range(cp.out):
            rival = (label + 1) % cp.out
            values = outputs[:, label] - outputs[:, rival]
            t = float(values.quantile(1 - share))
            found_share = float(tail_probability(difference(cp, label, rival), distribution, t))
            ratios.append(found_share / float((values > t).double().mean()))
        ordered = sorted(ratios)
        rows.append(dict(fitted=name, **errors, share=share, ratio_median=(ordered[4] + ordered[5]) / 2, ratio_least=ordered[0],
                         ratio_greatest=ordered[-1]))
    return rows


EXPECTATIONS = Study(
    "proof_expectations",
    "What do exact means of two and three layers cost in samples, and how wrong is the Gaussian closure, by width?",
    ("quantity", "width", "hidden", "error", "method", "truth", "truth_error", "samples_for_1_percent", "with_control",
     "samples_of_its_cost"),
    run_random_networks,
    {f"{kind} {width}": dict(kind=kind, width=width) for width in (16, 32, 64, 128, 256) for kind in ("relu", "bilinear")},
    seeds=(0, 1, 2), check=("bilinear 16", 0, {}), keys=("quantity", "method"))

TAILS = Study(
    "proof_tails",
    "How probable is a large logit difference of one layer, down to 1e-7, by four methods and by brute force?",
    ("target", "threshold", "probability", "standard_error", "relative_error", "samples"),
    run_tails,
    {"exact": dict(method="exact"), "saddle point": dict(method="saddle"), "gaussian": dict(method="gaussian"),
     "importance": dict(method="importance", count=1_000_000), "brute force": dict(method="brute force", count=100_000_000)},
    seeds=(0, 1, 2), check=("exact", 0, {}), keys=("target",))

REAL_INPUTS = Study(
    "proof_real_inputs",
    "Where is a Gaussian the wrong distribution: mean, covariance and tails of a layer on real digits?",
    ("fitted", "mean_error", "covariance_error", "share", "ratio_median", "ratio_least", "ratio_greatest"),
    run_digits,
    {"digits": dict(inputs="digits"), "gaussian draws": dict(inputs="gaussian draws")},
    seeds=(0, 1, 2), check=("gaussian draws", 0, {}), keys=("fitted", "share"), tolerance=0.02)

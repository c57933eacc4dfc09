"""The one place where weights get their first values."""

import torch
from torch import nn

from tensorlm.checks import require_instance, require_one_of

# last part of the parameter's name -> rule, or the number that fills it
RULES: dict[str, str | float] = {
    "L": "fan_in", "R": "fan_in", "E": "fan_in", "T": "output", "S": "output", "D": "output",
    "q": "fan_in", "k": "fan_in", "q1": "fan_in", "k1": "fan_in", "q2": "fan_in", "k2": "fan_in", "v": "fan_in",
    "o": "output", "embedding": "unit", "head": "output", "bigram": 0.0, "toeplitz": 0.0, "smear": 0.3, "gain": 1.0,
    "shortcut": "first_only", "value_mix": "first_only",
}
OUTPUT_INITS = ("zero", "normal")


def init_weights(module: nn.Module, generator: torch.Generator | None = None, output_init: str = "normal") -> None:
    """Give every parameter of `module` its first value, by its name.

    | name | value | why |
    | --- | --- | --- |
    | L, R, E, q, k, v (and q1, k1, q2, k2) | N(0, 1/in) | a unit-RMS input gives unit-variance hidden values |
    | D, o, head, T, S (what writes) | zero, or N(0, 1/columns) | zero: each block starts as the identity |
    | embedding | N(0, 1) | rows are brought to unit RMS afterwards |
    | bigram, toeplitz | 0 | the table starts as absent |
    | smear | 0.3 | see notes on token shift in chapter 03 |
    | shortcut, value_mix | (1, 0) | starts as absent |
    | gain | 1 | of a norm site that is a learned factor |

    Zeroing both factors of a product (L and R) would be a stationary point. Another name raises ValueError.
    """
    require_instance("module", module, nn.Module)
    require_one_of("output_init", output_init, OUTPUT_INITS)
    for name, parameter in module.named_parameters():
        key = [part for part in name.split(".") if not part.isdigit()][-1]
        if key not in RULES:
            raise ValueError(f"no initialisation rule for parameter {name!r}; known names: {sorted(RULES)}")
        rule = 0.0 if RULES[key] == "output" and output_init == "zero" else RULES[key]
        if isinstance(rule, float):
            parameter.data.fill_(rule)
        elif rule == "first_only":
            parameter.data.zero_()[..., 0] = 1.0
        else:
            deviation = 1.0 if rule == "unit" else parameter.shape[-1] ** -0.5
            parameter.data.normal_(0.0, deviation, generator=generator)

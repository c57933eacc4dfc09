"""What a steering vector does to a model at every strength: exactly, from the weights, where the model is a polynomial.

| question | call |
| --- | --- |
| which vector | `mean_difference`, `embedding_difference`, `unembedding_difference`, `eigenvector`, `random_like` |
| the logits at every strength, where the lead changes | `steering_response`; of several vectors `joint_response` |
| what the weights say before any text is seen | `weights_alone`, `self_table`, `score_table`, `output_matrices` |
| what they cannot say | `what_context_adds` |
| who contributed what to a change | `compare`, then `by_part`, `by_source`, `by_term`, `by_unit`, `by_eigenvector`, `by_carrier` |
| along which paths | `compare`, then `trace` |
| what the running model does, to check all that | `steered_logits`, `stream` |

Every function takes a model; to ask often, make it ready once: `Steerable.of(model)` of any kind, `opened(model)` of a polynomial,
its constant norms folded in. A layer l from 0 to the number of blocks L is the stream that enters block l: 0 the input rows, L the
stream before the head. Positions are "all", a number, a list of them, or a mask of booleans.
"""

from tensorlm.polynomials.chebyshev import ChebyshevSeries, PiecewiseSeries, TippingPoint
from tensorlm.polynomials.powers import Monomials, Polynomial
from tensorlm.steering.attribution import (
    Shares,
    behind_mlp,
    by_carrier,
    by_eigenvector,
    by_part,
    by_source,
    by_term,
    by_unit,
    inclusion_exclusion,
    logit_readout,
    shapley,
)
from tensorlm.steering.comparison import Comparison, Part, compare
from tensorlm.steering.joint import JointResponse, joint_response
from tensorlm.steering.paths import trace
from tensorlm.steering.prepare import Steerable, layer_tensor, opened
from tensorlm.steering.propagation import Trajectory, propagate
from tensorlm.steering.response import ROUTES, SteeringResponse, steering_response
from tensorlm.steering.vectors import (
    Injection,
    eigenvector,
    embedding_difference,
    mean_difference,
    random_like,
    steered_logits,
    stream,
    unembedding_difference,
)
from tensorlm.steering.weights import WeightsAlone, output_matrices, score_table, self_table, token_rows, weights_alone, what_context_adds
from tensorlm.tables import Table

__all__ = [
    "Steerable", "layer_tensor", "opened",
    "eigenvector", "embedding_difference", "mean_difference", "random_like", "unembedding_difference",
    "ROUTES", "JointResponse", "SteeringResponse", "TippingPoint", "joint_response", "steering_response",
    "ChebyshevSeries", "Monomials", "PiecewiseSeries", "Polynomial", "Trajectory", "propagate",
    "Injection", "steered_logits", "stream",
    "WeightsAlone", "output_matrices", "score_table", "self_table", "token_rows", "weights_alone", "what_context_adds",
    "Comparison", "Part", "Shares", "Table", "behind_mlp", "by_carrier", "by_eigenvector", "by_part", "by_source", "by_term", "by_unit",
    "compare", "inclusion_exclusion", "logit_readout", "shapley", "trace",
]

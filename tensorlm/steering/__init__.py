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

from tensorlm.steering.attribution import behind_mlp, by_carrier, by_eigenvector, by_part, by_term, by_unit, logit_readout
from tensorlm.steering.chebyshev import ChebyshevSeries, PiecewiseSeries
from tensorlm.steering.context import what_context_adds
from tensorlm.steering.injection import Injection, steered_logits
from tensorlm.steering.joint import JointResponse, joint_response
from tensorlm.steering.monomials import Monomials
from tensorlm.steering.opened import Steerable, head_matrix, layer_tensor, opened
from tensorlm.steering.polynomial import Polynomial
from tensorlm.steering.propagation import Trajectory, propagate
from tensorlm.steering.response import SteeringResponse
from tensorlm.steering.roots import TippingPoint
from tensorlm.steering.routes import ROUTES, steering_response
from tensorlm.steering.runs import Comparison, Part, compare
from tensorlm.steering.scores import score_table
from tensorlm.steering.shares import Shares
from tensorlm.steering.sources import by_source, inclusion_exclusion, shapley
from tensorlm.steering.tables import Table
from tensorlm.steering.traces import trace
from tensorlm.steering.vectors import eigenvector, embedding_difference, mean_difference, random_like, stream, unembedding_difference
from tensorlm.steering.weights import WeightsAlone, self_table, weights_alone
from tensorlm.steering.words import WORD_PAIRS, single_tokens
from tensorlm.steering.writers import output_matrices, token_rows

__all__ = [
    "Steerable", "head_matrix", "layer_tensor", "opened",
    "WORD_PAIRS", "eigenvector", "embedding_difference", "mean_difference", "random_like", "single_tokens", "unembedding_difference",
    "ROUTES", "JointResponse", "SteeringResponse", "TippingPoint", "joint_response", "steering_response",
    "ChebyshevSeries", "Monomials", "PiecewiseSeries", "Polynomial", "Trajectory", "propagate",
    "Injection", "steered_logits", "stream",
    "WeightsAlone", "output_matrices", "score_table", "self_table", "token_rows", "weights_alone", "what_context_adds",
    "Comparison", "Part", "Shares", "Table", "behind_mlp", "by_carrier", "by_eigenvector", "by_part", "by_source", "by_term", "by_unit",
    "compare", "inclusion_exclusion", "logit_readout", "shapley", "trace",
]

"""What a steering vector does to a model at every strength: exactly, from the weights, where the model is a polynomial.

`steering_response` gives the logits as a function of the strength, `weights_alone` what can be said before any text is seen, the
`by_...` functions and `trace` who contributed what to a change, and `mean_difference` and its like the vectors.
"""

from tensorlm.steering.attribution import behind_mlp, by_carrier, by_eigenvector, by_part, by_term, by_unit, logit_readout
from tensorlm.steering.chebyshev import ChebyshevSeries, PiecewiseSeries
from tensorlm.steering.context import what_context_adds
from tensorlm.steering.injection import Injection, Steerable, steered_logits
from tensorlm.steering.joint import JointResponse, joint_response
from tensorlm.steering.monomials import Monomials
from tensorlm.steering.opened import opened
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
from tensorlm.steering.writers import output_matrices

__all__ = [
    "ROUTES", "WORD_PAIRS", "ChebyshevSeries", "Comparison", "Injection", "JointResponse", "Monomials", "Part", "PiecewiseSeries",
    "Polynomial", "Shares", "Steerable", "SteeringResponse", "Table", "TippingPoint", "Trajectory", "WeightsAlone", "behind_mlp",
    "by_carrier", "by_eigenvector", "by_part", "by_source", "by_term", "by_unit", "compare", "eigenvector", "embedding_difference",
    "inclusion_exclusion", "joint_response", "logit_readout", "mean_difference", "opened", "output_matrices", "propagate", "random_like",
    "score_table", "self_table", "shapley", "single_tokens", "steered_logits", "steering_response", "stream", "trace",
    "unembedding_difference", "weights_alone", "what_context_adds",
]

"""What a steering vector does to a model at every strength: exactly, from the weights, where the model is a polynomial.

| question | call |
| --- | --- |
| which vector | `mean_difference`, `embedding_difference`, `unembedding_difference`, `random_like` |
| the logits at every strength, where the lead changes | `steering_response`; of several vectors `joint_response` |
| what the weights say before any text is seen | `weights_alone` |
| what they cannot say | `decompose_effect` |
| who contributed what to a change | `compare`, then `direct_logit_attribution`, `by_source`, `by_term`, `by_carrier` |
| along which paths | `compare`, then `trace` |
| what the running model does, to check all that | `steered_logits`, or `model.run(tokens, add={layer: rows})` |

Every function takes a model; to ask often, make it ready once: `Steerable.of(model)` of any kind, `as_polynomial(model)` of a
polynomial, its constant norms folded in. A layer l from 0 to the number of blocks L is the stream that enters block l: 0 the input
rows, L the stream before the head. Positions are "all", a number, a list of them, or a mask of booleans.
"""

from tensorlm.steering.attribution import behind_mlp, by_carrier, by_source, by_term, direct_logit_attribution
from tensorlm.steering.comparison import compare
from tensorlm.steering.joint import joint_response
from tensorlm.steering.paths import trace
from tensorlm.steering.prepare import Steerable, as_polynomial
from tensorlm.steering.response import steering_response
from tensorlm.steering.vectors import Injection, embedding_difference, mean_difference, random_like, steered_logits, unembedding_difference
from tensorlm.steering.weights import decompose_effect, weights_alone

__all__ = [
    "Injection", "Steerable", "as_polynomial", "behind_mlp", "by_carrier", "by_source", "by_term", "compare", "decompose_effect",
    "direct_logit_attribution", "embedding_difference", "joint_response", "mean_difference", "random_like",
    "steered_logits", "steering_response", "trace", "unembedding_difference", "weights_alone",
]

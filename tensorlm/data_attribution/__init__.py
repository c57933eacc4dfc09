"""Which training example did it: models by the thousand, leave-one-out, influence functions, and how well scores predict.

| question | call |
| --- | --- |
| many models, each with its own weights on the examples | `train_bank`, with a `Recipe`; `outcomes` |
| one model, step by step | `trajectory` |
| what leaving an example out does, and how sure that is | `leave_one_out`, `without`, `two_way`; exact for `RidgeHead` |
| what a method says that it does | `influence`, `tracin`, `trak`, `unrolled`; floors: `similarity` |
| whether that holds where many are left out | `draw_subsets`, `lds` |
| when a model groks, and without which example later | `grok`, with an `Adder`; `split_pairs` |

Effects and scores have one shape (train, test) and one sign: how the outcome of the test example changes without the training
example.
"""

from tensorlm.data_attribution.bank import Classifiers, Recipe, centred_digits, outcomes, train_bank, trajectory
from tensorlm.data_attribution.influence import influence, similarity, tracin, trak
from tensorlm.data_attribution.lds import draw_subsets, lds
from tensorlm.data_attribution.leave_one_out import RidgeHead, leave_one_out, two_way, without
from tensorlm.data_attribution.modular import Adder, grok, split_pairs
from tensorlm.data_attribution.unrolled import unrolled

__all__ = ["Adder", "Classifiers", "Recipe", "RidgeHead", "centred_digits", "draw_subsets", "grok", "influence", "lds", "leave_one_out",
           "outcomes", "similarity", "split_pairs", "tracin", "train_bank", "trajectory", "trak", "two_way", "unrolled", "without"]

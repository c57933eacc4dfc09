"""What a reward finds: landscapes in closed form, evolution strategies, and the policy gradient beside them."""

from tensorlm.evolution.landscape import Landscape, hill_and_hack, hit_probability
from tensorlm.evolution.policy import Policy, Texts, policy_gradient
from tensorlm.evolution.rewards import full_stops, password, sentences, ungrammatical
from tensorlm.evolution.strategies import Strategy, evolve, shape_rewards
from tensorlm.evolution.width import noisy_layer, reward_spread

__all__ = ["Landscape", "Policy", "Strategy", "Texts", "evolve", "full_stops", "hill_and_hack", "hit_probability", "noisy_layer",
           "password", "policy_gradient", "reward_spread", "sentences", "shape_rewards", "ungrammatical"]

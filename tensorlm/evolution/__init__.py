"""What a reward finds: landscapes in closed form, evolution strategies, and the policy gradient beside them."""

from tensorlm.evolution.landscape import Landscape, hill_and_hack, hit_probability
from tensorlm.evolution.strategies import Climb, Strategy, evolve, shape_rewards

__all__ = ["Climb", "Landscape", "Strategy", "evolve", "hill_and_hack", "hit_probability", "shape_rewards"]

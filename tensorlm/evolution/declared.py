"""The studies behind the chapter on reward landscapes: `python -m tensorlm.evolution NAME --out FOLDER --release`."""

import torch
from torch import Tensor

from tensorlm import released
from tensorlm.data.toy import INDEX
from tensorlm.data.toy.language import PLACES
from tensorlm.evolution.landscape import hill_and_hack, hit_probability
from tensorlm.evolution.policy import Policy, Reward, Texts, policy_gradient
from tensorlm.evolution.rewards import full_stops, password, says, sentences, ungrammatical
from tensorlm.evolution.strategies import Strategy, evolve
from tensorlm.evolution.width import reward_spread
from tensorlm.studies import Row, Study
from tensorlm.training import load_model

DIMENSION, DISTANCE, WIDTH, SIMULATED_STEPS, RUNS = 32, 2.0, 0.2, 200, 5
CODIMENSIONS, SIGMAS = (1, 2, 4, 8), (0.1, 0.3, 0.7, 1.5)
WORDS, TEXTS_A_STEP, JUDGED = 10, 1024, 64  # words a text; texts a step of either method; texts a prompt for the verdict
SECRET = ("wet", "zoo", "poet")
WIDTH_SIGMAS, WIDTH_DRAWS = (0.0, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1), 64


def simulate(seed: int, population: int, shaping: str, codimension: int, sigmas: tuple[float, ...] = SIGMAS) -> list[Row]:
    """Climbs from the top of the honest hill, `RUNS` side by side: how many sampled the hack, how many ended in it."""
    landscape, rows = hill_and_hack(DIMENSION, codimension, width=WIDTH, distance=DISTANCE), []
    for sigma in sigmas:
        strategy = Strategy(population, sigma, shaping=shaping, antithetic=False)
        start = torch.zeros(RUNS, DIMENSION, dtype=torch.float64)
        climb = evolve(landscape, start, strategy, SIMULATED_STEPS, seed)
        away = (climb.path[-1] - landscape.centres[1])[:, :codimension].norm(dim=-1)
        first_hit = 1 - (1 - hit_probability(sigma, DISTANCE, 2 * WIDTH, codimension)) ** population
        rows.append(dict(sigma=sigma, sampled=int((climb.best.amax(0) > 2).sum()), ended=int((away < 3 * WIDTH).sum()),
                         runs=RUNS, hit_first_step=first_hit))
    return rows


def toy_policy() -> Policy:
    """The released polynomial model of the toy language, with its norms folded away."""
    return Policy(load_model(released.checkpoint("toy-polynomial")).fold_norms())


def prompts() -> Tensor:
    """The four beginnings of a document, (4, 2)."""
    return torch.tensor([[INDEX["<doc>"], INDEX[place]] for place in PLACES])


def reward_named(hack: str) -> Reward:
    """"full stops" pays for each of them, "password" 10 for three words that never follow each other."""
    return full_stops(WORDS) if hack == "full stops" else password(WORDS, SECRET)


def climb_language(policy: Policy, hack: str, method: str, size: float, penalty: float, steps: int, seed: int) -> Tensor:
    """The path (steps + 1, n) of evolution (`size` = sigma) or of the policy gradient (`size` = rate of Adam)."""
    reward, places = reward_named(hack), prompts()
    if method == "policy gradient":
        texts = Texts(places, WORDS, TEXTS_A_STEP // len(places))
        return policy_gradient(policy, reward, texts, steps, size, penalty, seed).path
    strategy = Strategy(32, size, rate=2.0, shaping=method)
    texts = Texts(places, WORDS, TEXTS_A_STEP // (strategy.population * len(places)))
    return evolve(policy.returns(reward, texts, torch.Generator().manual_seed(1000 + seed)), policy.start, strategy, steps, seed).path


def judged(policy: Policy, point: Tensor, hack: str, seed: int) -> dict[str, float]:
    """What a model's texts are worth: the reward paid, what was meant, shares of hacks, and the KL to the start in nats a word."""
    texts = policy.write(point[None], Texts(prompts(), WORDS, JUDGED), torch.Generator().manual_seed(2000 + seed))[0]
    secret = torch.tensor([INDEX[word] for word in SECRET])
    return dict(paid=reward_named(hack)(texts).mean().item(), meant=sentences(WORDS)(texts).mean().item(),
                ungrammatical=ungrammatical(texts).double().mean().item(), password=says(texts, secret).double().mean().item(),
                kl=policy.divergence(point, texts, WORDS))


def language(seed: int, hack: str, method: str, size: float, penalty: float = 0.0, steps: int = 60, every: int = 10) -> list[Row]:
    """One run on the toy language, judged every few steps. Hacked: paid for more than 1.5 times what was meant."""
    policy = toy_policy()
    path = climb_language(policy, hack, method, size, penalty, steps, seed)
    rows = []
    for step in range(0, steps + 1, every):
        found = judged(policy, path[step], hack, seed)
        moved = (path[step] - path[0]).norm() / path[0].norm()
        rows.append(dict(step=step, **found, moved=moved.item(), hacked=int(found["paid"] > 1.5 * found["meant"])))
    return rows


def widths(seed: int, hack: str, method: str, size: float, steps: int = 60, draws: int = WIDTH_DRAWS) -> list[Row]:
    """The reward that is paid, and its variance, against the size of random changes of the weights: where a run ended."""
    policy = toy_policy()
    end = climb_language(policy, hack, method, size, 0.0, steps, seed)[-1] if steps else policy.start
    texts = Texts(prompts(), WORDS, 8)
    paid = policy.returns(reward_named(hack), texts, torch.Generator().manual_seed(3000 + seed))
    spread = reward_spread(paid, end, WIDTH_SIGMAS, draws, seed)
    return [dict(sigma=sigma, mean=mean.item(), variance=variance.item(), error=error.item())
            for sigma, mean, variance, error in zip(WIDTH_SIGMAS, *spread)]


SIMULATED = {f"{population} {shaping}, codimension {k}": dict(population=population, shaping=shaping, codimension=k)
             for population in (30, 1000) for shaping in ("raw", "standardised", "clipped", "ranked") for k in CODIMENSIONS}
METHODS = {"standardised .01": ("standardised", 0.01), "standardised .02": ("standardised", 0.02),
           "standardised .03": ("standardised", 0.03), "standardised .05": ("standardised", 0.05),
           "ranked .02": ("ranked", 0.02), "ranked .05": ("ranked", 0.05), "gradient .001": ("policy gradient", 0.001),
           "gradient .003": ("policy gradient", 0.003), "gradient .01": ("policy gradient", 0.01)}
LANGUAGE = {f"full stops, {name}": dict(hack="full stops", method=method, size=size) for name, (method, size) in METHODS.items()}
LANGUAGE |= {"full stops, gradient .01, KL .3": dict(hack="full stops", method="policy gradient", size=0.01, penalty=0.3)}
LANGUAGE |= {f"password, {name}": dict(hack="password", method=METHODS[name][0], size=METHODS[name][1])
             for name in ("standardised .02", "standardised .05", "gradient .003", "gradient .01")}
ENDS = {"start": dict(hack="full stops", method="standardised", size=0.02, steps=0),
        "evolution, honest": dict(hack="full stops", method="standardised", size=0.02),
        "gradient, honest": dict(hack="full stops", method="policy gradient", size=0.003),
        "evolution, hacked": dict(hack="full stops", method="standardised", size=0.05),
        "gradient, hacked": dict(hack="full stops", method="policy gradient", size=0.01)}

STUDIES = {study.name: study for study in (
    Study("reward_simulation", "When does an evolution strategy leave an honest hill for a narrow hack?",
          ("sigma", "sampled", "ended", "runs", "hit_first_step"), simulate, SIMULATED, (0,),
          check=("30 standardised, codimension 1", 0, dict(sigmas=(0.7,))), keys=("sigma",)),
    Study("reward_language", "Which method, at which step, ends in the hack of a reward on text?",
          ("step", "paid", "meant", "ungrammatical", "password", "kl", "moved", "hacked"), language, LANGUAGE, (0, 1, 2, 3, 4),
          check=("full stops, standardised .02", 0, dict(steps=0)), keys=("step",), tolerance=0.02),
    Study("reward_widths", "How wide is what was found?", ("sigma", "mean", "variance", "error"), widths, ENDS, (0, 1, 2),
          check=("start", 0, {}), keys=("sigma",), tolerance=0.05),
)}

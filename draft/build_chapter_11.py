"""Assemble chapter 11 from cells."""
import nbformat as nbf
cells = []
def md(text): cells.append(nbf.v4.new_markdown_cell(text.strip("\n")))
def code(text, fig=None, caption=None, alt=None, tags=(), fold=False):
    c = nbf.v4.new_code_cell(text.strip("\n"))
    tags = list(tags) + (["hide-input"] if fold else [])
    if tags: c.metadata["tags"] = tags
    if fig: c.metadata["mystnb"] = {"figure": {"caption": caption, "name": f"fig-11-{fig}"}, "image": {"alt": alt}}
    cells.append(c)

md("""
# Data attribution: which training example did it?

[Open in Colab](https://colab.research.google.com/)

A trained model says what it says because of the examples that it saw. Here we ask which of them, and how sure we can be.
""")
code("")
md("""
**The question.** A model reads a handwritten digit. *Which of its training digits made it say so?* There is an answer that sounds exact: leave one
training digit out, train again, and see what changes. With small [bilinear layers](glossary.md) we can do that for every one of 1,000 digits in five
seconds. Is the table that we get the truth?

**The answer**, in [the figure below](#fig-11-answer): it is the truth about **one run**. Another random seed gives another table. It takes several runs to measure one
effect, and a formula that needs one training predicts retrainings better than one table of 1,000.
""")
code('''
# Picture of the answer: how many runs an effect needs, and who predicts best.
import matplotlib.pyplot as plt
import torch
from tensorlm import released
from tensorlm.notebook import figures

seeds = released.results("loo_seeds").query("outcome == 'margin'")
seeds = seeds.set_index("arm")
scored = released.results("lds_methods").query("kept == 0.5")
scored = scored.set_index("arm")["value"]
names = {"leave-one-out, one run": "leave one out,\\n1,001 trainings",
         "leave-one-out, 8 runs": "leave one out,\\n8,008 trainings",
         "Gauss-Newton .001": "influence,\\n1 training",
         "Gauss-Newton .001, 4 models": "influence,\\n4 trainings"}
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
for shift, (kind, label) in enumerate([("paired", "same seed in both"),
                                       ("unpaired", "a new seed each")]):
    left.barh([0.4 * shift], seeds.loc["sgd", kind], 0.36, label=label)
    left.text(seeds.loc["sgd", kind] * 1.15, 0.4 * shift,
              f"{seeds.loc['sgd', kind]:,.0f}", va="center")
left.set(xscale="log", xlim=(1, 1e5), yticks=[], xlabel="runs needed")
left.set_title("to know what one example does")
left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
right.barh(list(names.values()), scored[list(names)], color="C2")
right.set(xlim=(0, 1), xlabel="rank correlation with retrainings")
right.set_title("predicting what half of the data does")
figures.show(fig)
''', "answer", "Left: runs needed before the table of single effects has reliability 0.8. Right: how well three ways predict retrainings on half of the digits, in runs that they did not see.",
 "Left: a handful of runs is enough when the two models that are compared share their seed, thousands are needed when they do not. Right: one influence function predicts retrainings better than a table of one thousand and one trainings, and about as well as eight such tables.", tags=("answer",), fold=True)
md("""
Three results to remember:

1. The effect of one example is exact for one run and mostly noise for another. Compare models that share their seed.
2. How well a method predicts depends on how much data is removed. No single number is "the quality" of a method.
3. One influence function is better than one table of 1,000 trainings, and no single example decides when a model learns a rule.

## What you will be able to do

- **Train** a thousand models at once, each without one example.
- **Measure** how much of an effect is the example and how much is the seed.
- **Score** an attribution method by the linear datamodelling score, with an interval.
- **Compare** ten methods, and **say** at which size of the removed set one of them wins.
- **Derive** the exact effect of an example on a ridge regression.

**Before this:** [chapter 01](01_bilinear_layer.ipynb), gradients, and what a correlation is. You are ready if you can say why the mean of nine noisy
numbers has a third of the noise of one.

**Time:** 30 minutes to read, one minute and a half to run, 80 minutes for all exercises.
""")
md("""
## A thousand models, each without one digit

What does "this example mattered" mean? We take the plainest meaning and compute it.

Our model is one bilinear layer that reads an 8×8 digit $x$ and gives ten scores, its **logits**: $P[(A_1x) \\odot (A_2x)]$ with 16 hidden units. Training has 1,000 digits.
Let $m(t)$ be what the trained model says of a test digit $t$: its **margin**, the logit of the right class minus the (soft) maximum of the others. A margin above 0
is a right answer, and a large one is a sure one.

Now leave training digit $i$ out and train again, with the same seed: the same first weights and the same order. The [leave-one-out effect](glossary.md) is

$$
e(i, t) = m_{\\text{without } i}(t) - m(t).
$$

If it is negative, digit $i$ *helped* with $t$. All 1,001 models are trained side by side, because they read the same batches: their first layers become one large matrix product.
""")
code('''
from tensorlm.data_attribution import Recipe, centred_digits, leave_one_out

data = centred_digits()               # 1,000 training, 355 test digits
recipe = Recipe(divide="batch")       # SGD, 20 passes, a little decay
runs = [leave_one_out(data, recipe, seed=0)]     # 1,001 trainings
effects = [run.effects("margin").double() for run in runs]
print(tuple(effects[0].shape))        # training digits, test digits
''')
md("""
Is a model of this bank really the model that one would train alone? We train number 7 alone and compare, in double precision. The second comparison must fail: number 8 lacks
another digit.
""")
code('''
from dataclasses import replace
from tensorlm.data_attribution import train_bank, without

exact = replace(recipe, dtype=torch.float64)
weights = without(1000, range(20))          # row 0 has all digits
bank = train_bank(data.x, data.y, weights, exact)
alone = train_bank(data.x, data.y, weights[8:9], exact)

same = lambda one, other: torch.allclose(one, other, rtol=1e-9, atol=1e-9)
assert same(bank.model(8).logits(data.test_x.double()),
            alone.logits(data.test_x.double()))
assert not same(bank.model(9).left, alone.left)
''')
md("""
The tests of the package compare the bank with models trained one by one by automatic differentiation too.

What do the effects look like? For one test digit, sort them by size. [The figure](#fig-11-sorted) shows that most training digits hardly matter.
""")
code('''
# Picture: the effects on one test digit, sorted, and their cumulative share.
from tensorlm.notebook import record

margins = runs[0].margin[0]
digit = int(margins.sub(0.5).abs().argmin())    # a hard one: margin near 0.5
own = effects[0][:, digit]
squares = effects[0].square().sort(0, descending=True).values
share = (squares.cumsum(0) / squares.sum(0)).mean(1)
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
left.plot(own.sort().values)
left.axhline(0, color="black", lw=0.8)
left.set(xlabel="training digits, sorted", ylabel="effect on the margin")
left.set_title("one test digit")
right.plot(torch.arange(1, 1001) / 10, 100 * share)
right.set(xlabel="largest effects, % of the training digits",
          ylabel="share of all squares, %", xlim=(0, 30), ylim=(0, 100))
right.set_title("all test digits, mean")
figures.show(fig)
record("top_5_percent", 100 * float(share[49]), digits=0)
''', "sorted", "Left: all 1,000 effects on the margin of one test digit. Right: the share of the squared effects that the largest ones hold.",
 "Left: the sorted effects are flat near zero, with a few large negative ones on the left and a few large positive ones on the right. Right: the largest five percent of the effects hold most of the squared size.", fold=True)
md("""
The largest 5 % of the effects hold TOP5 %<!--=top_5_percent--> of the squares. So a few training digits stand out. Which ones are they?
""".replace("TOP5", "00"))
md("""
## The ten digits that mattered most

[The next figure](#fig-11-ten) shows the ten training digits whose removal costs our test digit most, with their effect on its margin.
""")
code('''
def most_helpful(table, t, count=10):
    return table[:, t].argsort()[:count].tolist()

helpful = most_helpful(effects[0], digit)
print([data.y[i].item() for i in helpful], "help with a",
      data.test_y[digit].item())
''')
code('''
# Picture: the test digit and its ten most helpful training digits.
from tensorlm.data import load_digits

pixels = load_digits()
def draw(axes, picture, title, frame=None):
    axes.imshow(picture.reshape(8, 8), cmap="Greys", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for side in axes.spines.values():
        side.set(visible=frame is not None, color=frame, linewidth=3)

fig, axes = plt.subplots(2, 6, figsize=(8.5, 3.2))
draw(axes[0, 0], pixels.test_x[digit], "test digit", "C1")
axes[1, 0].axis("off")
for ax, i in zip(axes[:, 1:].flat, helpful):
    draw(ax, pixels.train_x[i], f"{effects[0][i, digit]:+.2f}")
figures.show(fig)
''', "ten", "A test digit (framed) and the ten training digits that help most with it. Above each: how its margin changes without that digit.",
 "A test digit and ten training digits; most of the ten are of the same class, and without each of them the margin of the test digit falls by some tenths.", fold=True)
md("""
**Predict.** We train all 1,001 models once more and change nothing but the seed. How many of these ten digits are among the ten most helpful of the second run?
""")
code('''
runs.append(leave_one_out(data, recipe, seed=1))
effects.append(runs[1].effects("margin").double())
again = most_helpful(effects[1], digit)
print("shared:", len(set(helpful) & set(again)), "of 10")

everywhere = [len(set(most_helpful(effects[0], t))
                  & set(most_helpful(effects[1], t))) for t in range(355)]
mean_shared = sum(everywhere) / 355
record("mean_shared", mean_shared, digits=1)
''')
code('''
# Picture: the ten of each run, those that both share framed; all effects.
fig, axes = plt.subplots(2, 10, figsize=(8.5, 2.3))
both = set(helpful) & set(again)
for row, (name, chosen) in enumerate([("seed 0", helpful), ("seed 1", again)]):
    for ax, i in zip(axes[row], chosen):
        draw(ax, pixels.train_x[i], "", "C1" if i in both else None)
    axes[row, 0].set_ylabel(name)
figures.show(fig)
''', "two-seeds", "The ten most helpful training digits in two runs that differ by the seed alone. Those that both runs name are framed.",
 "Two rows of ten digits, one for each seed. Only some of the digits, those with a frame, stand in both rows.", fold=True)
md("""
Over all test digits the two runs share SHARED<!--=mean_shared--> of ten on average. Both tables are exact. They are answers to different questions: *what did digit $i$ do in this run?* So how
do we learn what it does in general?
""".replace("SHARED", "0.0"))
md("""
## The example, the seed, and their interaction

We take two more runs, so that we have four, and split what we see.

Write the margin of test digit $t$ without training digit $i$, in the run of seed $s$, as a sum:

$$
m_{is} = \\text{mean} + \\underbrace{p_i}_{\\text{point}} + \\underbrace{r_s}_{\\text{run}} + \\underbrace{w_{is}}_{\\text{interaction}}.
$$

The point's part $p_i$ is what digit $i$ does in every run: that is what we want. The run's part $r_s$ moves all models of one seed together. The interaction is what digit $i$ does in run $s$ only. `two_way` estimates
the variance of each.
""")
code('''
from tensorlm.data_attribution import two_way

for seed in (2, 3):
    runs.append(leave_one_out(data, recipe, seed=seed))
    effects.append(runs[-1].effects("margin").double())
tables = torch.stack([run.margin[1:].double() for run in runs])
parts = two_way(tables).pooled()        # means over the test digits
print("paired:", round(parts.seeds_needed().item()), "runs")
print("unpaired, in thousands:",
      round(parts.seeds_needed(pairing="unpaired").item() / 1000))
''')
code('''
# Picture: the three variances, and what pairing by seed takes away.
sizes = [parts.point.item(), parts.interaction.item(), parts.seed.item()]
labels = ["point\\n(in every run)", "interaction\\n(in one run)",
          "run\\n(all models of a seed)"]
fig, ax = plt.subplots(figsize=(8.5, 2.8))
ax.barh(labels, sizes, color=["C2", "C0", "C1"])
ax.set(xscale="log", xlabel="variance of a margin")
for place, size in enumerate(sizes):
    ax.text(size * 1.1, place, f"{size / sizes[0]:,.0f}×", va="center")
ax.set_xlim(right=sizes[2] * 6)
ax.invert_yaxis()
figures.show(fig)
''', "variances", "Where the variance of a margin comes from, on a logarithmic scale; the numbers compare each with the point's.",
 "The variance of the point is the smallest, that of the interaction about twice as large, and that of the run hundreds of times larger.", fold=True)
md("""
[The figure](#fig-11-variances) says why pairing matters. Two models of *different* seeds differ by the run's part, which is hundreds of times the point's. In a difference of two models of *one* seed it cancels, and only the interaction is left as noise.

A table that is the mean over $k$ runs has **reliability** $\\rho = p/(p + w/k)$, where $p$ and $w$ are now the variances: the correlation of two such tables in expectation. "Runs needed" above means $\\rho = 0.8$. How much does that depend on how the model is trained? The released table has six
recipes.
""")
code('''
# Picture: runs needed by recipe, paired and unpaired (released table).
order = ["early", "no decay", "sgd", "muon", "long", "adam"]
fig, ax = plt.subplots(figsize=(8.5, 3.2))
for shift, kind in enumerate(("paired", "unpaired")):
    values = seeds.loc[order, kind]
    places = torch.arange(6) + 0.4 * shift - 0.2
    ax.barh(places, values, 0.38, label=kind)
    for place, value in zip(places.tolist(), values):
        ax.text(value * 1.1, place, f"{value:,.0f}", va="center", size=9)
ax.set(xscale="log", xlim=(1, 3e5), xlabel="runs needed for reliability 0.8")
ax.set_yticks(range(6), order)
ax.invert_yaxis()
ax.legend()
figures.show(fig)
''', "recipes", "Runs needed before the table of single effects has reliability 0.8, for six ways to train: three passes instead of twenty, no weight decay, the recipe of this chapter, Muon, eighty passes with more decay, Adam.",
 "Paired runs needed: most for the model that is stopped early and the one without decay, few for Adam and for long training. Unpaired: hundreds to tens of thousands in every recipe.", fold=True)
md("""
Training that ends close to a minimum, helped by weight decay, needs the fewest runs. A model that is stopped early needs the most. That matters for language models, which see their data about once.

One trap remains: with which correlation do we compare two tables? A rank correlation asks for the order of *all* digits, and 900 of them have no effect.
""")
code('''
def correlation(one, other):
    one, other = one - one.mean(0), other - other.mean(0)
    return (one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0))

def ranks(table):
    return table.argsort(0).argsort(0).double()

halves = [torch.stack(effects[:2]).mean(0), torch.stack(effects[2:]).mean(0)]
pearson = correlation(*halves).mean().item()
spearman = correlation(*map(ranks, halves)).mean().item()
assert pearson > spearman + 0.1
figures.table(["correlation of two tables of two runs", "value"],
              [["of the effects (Pearson)", f"{pearson:.2f}"],
               ["of their ranks (Spearman)", f"{spearman:.2f}"]])
''')
md("""
The few large effects agree far better than the ranks do. For single examples we use Pearson's correlation from here on.
""")
md("""
Look for yourself. The mean of our four runs, an influence function (explained in the next section) and plain similarity of the images choose different training digits. Your browser has the real scores.
""")
code('''
from tensorlm.data_attribution import influence, similarity
from tensorlm.notebook import ranked_digits

model = train_bank(data.x, data.y, torch.ones(1, 1000), recipe, 0)
influences = influence(model, data, recipe, damping=0.001)
asked = margins.argsort()[[4, 15, 30, 60, 100, 150, 220, 300]]
methods = {"leave one out, mean of four runs": torch.stack(effects).mean(0),
           "influence function of one model": influences,
           "similarity of the images": similarity(data, "margin", "pixels")}
ranked_digits.ranked(
    "attributed", pixels.train_x[:1000], data.y.tolist(),
    pixels.test_x[asked], data.test_y[asked].tolist(),
    {name: table[:, asked] for name, table in methods.items()})
''')
md("""
## Removing many at once: the LDS

Nobody removes one example from a language model and trains again. Published comparisons use another test, the [linear datamodelling score](glossary.md) (LDS) of {cite}`ilyas2022datamodels` and {cite}`park2023trak`. What does it measure?

Draw $M$ random subsets of the training data that keep, say, half. Train on each. A method gives every pair $(i, t)$ a score $\\tau(i, t)$, its guess of $e(i, t)$. For a subset it predicts the **sum** of the scores of the removed digits. The LDS asks how well these sums rank the
retrained margins:

$$
\\mathrm{LDS}(t) = \\operatorname{Spearman}_{S}\\Big(\\sum_{i \\notin S} \\tau(i, t),\\; m_S(t)\\Big),
$$

and its mean over $t$ is *the* LDS. We compare two methods: our table of run 0, and an **influence function**, which asks a quadratic model of the loss what would happen and needs no further training {cite}`koh2017influence`.
""")
code('''
from tensorlm.data_attribution import draw_subsets, lds, outcomes

subsets = draw_subsets(data.y, kept=0.5, count=100, draw="stratified")
truth = torch.stack([
    outcomes(train_bank(data.x, data.y, subsets.float(), recipe, seed),
             data.test_x, data.test_y) for seed in (4, 5, 6, 7)])

scored = {"influence function": lds(influences, subsets, truth),
          "leave-one-out, run 0": lds(effects[0], subsets, truth)}
''')
code('''
# Table: LDS of both, with intervals over digits, subsets, and both.
rows = []
for name, found in scored.items():
    spans = [found.interval(over) for over in ("points", "subsets", "both")]
    rows.append([name, f"{found.mean:.2f}",
                 *(f"{low:.2f} to {high:.2f}" for low, high in spans)])
figures.table(["scores", "LDS", "over digits", "over subsets", "over both"],
              rows, caption="95 % intervals over what is drawn by chance")
''', fold=True)
code('''
# Picture: predicted sums and retrained margins for one test digit.
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
for ax, (name, found) in zip(axes, scored.items()):
    predicted, margin = found.predicted[:, digit], found.truth[:, digit]
    ax.scatter(predicted, margin, s=14)
    ax.set(title=f"{name}: {found.values[digit]:.2f}",
           xlabel="sum of the scores of removed digits")
axes[0].set_ylabel("margin after retraining")
figures.show(fig)
''', "lds", "One test digit, 100 subsets: predicted sum against the margin of the models trained on the subset (mean of four runs). The number is the rank correlation.",
 "Two clouds of one hundred points that rise from left to right; the cloud of the influence function is narrower than that of the leave-one-out table.", fold=True)
md("""
The influence function of one model beats the table of 1,001 trainings. The truth comes from seeds that neither has seen, and the table of run 0 is full of what happened in run 0 alone.

Look at the intervals. That over the test digits is the narrowest; resampling the subsets gives a wider one. The reason: all test digits share the same subsets. So how many subsets does one need, and why do papers take 100?
""")
code('''
# Picture: spread of an LDS against the number of subsets (released table).
noise = released.results("lds_noise").query("arm == '4,000 subsets'")
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), sharey=True)
titles = {"influence": "one LDS",
          "influence - EK-FAC": "difference of two methods"}
for ax, (value, title) in zip(axes, titles.items()):
    for (points, rows), marker in zip(
            noise[noise["value"] == value].groupby("points"), "sDo"):
        label = f"{points} test digit" + "s" * (points > 1)
        ax.plot(rows["subsets"], rows["sd"], marker=marker, label=label)
    ax.set(xscale="log", yscale="log", xlabel="subsets $M$", title=title)
axes[0].set_ylabel("standard deviation")
axes[0].legend()
figures.show(fig)
hundred = noise.query("points == 300 and subsets == 100").set_index("value")
record("lds_error", 2 * hundred.loc["influence", "sd"], digits=2)
record("pair_error", 2 * hundred.loc["influence - EK-FAC", "sd"], digits=3)
''', "noise", "How far one LDS is from itself with other subsets, measured on 4,000 subsets cut into blocks. Left: one method. Right: the difference of two methods on the same subsets.",
 "The standard deviation falls with the square root of the number of subsets. Three hundred test digits instead of thirty lower it only a little; the difference of two methods is about half as noisy as one value.", fold=True)
md("""
The error falls as $1/\\sqrt M$, and more test digits do not repair it. With 100 subsets, one LDS is known to about ±LDSERR<!--=lds_error-->, and a difference of two methods on the same subsets to about ±PAIRERR<!--=pair_error-->. That is what "100" buys.
""".replace("LDSERR", "0.00").replace("PAIRERR", "0.000"))
md("""
## Ten methods, six sizes

Which method is best? We put ten of them on one truth and change only how much is removed. The released table has 300 subsets at each size, and the truth is the mean of four runs that no method saw.

| method | what it uses |
| --- | --- |
| influence, Gauss-Newton | curvature of the loss as a matrix {cite}`koh2017influence` |
| EK-FAC | the same matrix, approximated by small factors {cite}`grosse2023influence` |
| TRAK | gradients as features of a regression {cite}`park2023trak` |
| TracIn, gradient dot | gradients along training, or at its end {cite}`pruthi2020tracin` |
| unrolled | the derivative through every training step {cite}`bae2024source` |
| Bayesian | covariance of losses under noise on the weights {cite}`kreer2025bayesian` |
| leave-one-out | 1,001 or 8,008 trainings |
| pixels | how alike two images of one class are |
""")
code('''
# Picture: every method at every size of the kept part (released table).
table = released.results("lds_methods")
shown = {"ceiling": "ceiling", "Gauss-Newton .001, 4 models": "influence",
         "leave-one-out, 8 runs": "leave-one-out, 8 runs",
         "TRAK, ridge 100, 4 models": "TRAK",
         "EK-FAC .001, 4 models": "EK-FAC", "unrolled, 4 models": "unrolled",
         "TracIn, 4 models": "TracIn", "pixels": "pixels",
         "leave-one-out, one run": "leave-one-out, one run"}
fig, ax = plt.subplots(figsize=(8.5, 4.6))
for name, label in shown.items():
    rows = table[(table["arm"] == name) & (table["kept"] < 0.99)]
    ax.plot(100 * (1 - rows["kept"]), rows["value"], marker="o", ms=4,
            label=label, color="grey" if name == "ceiling" else None)
ax.set(xscale="log", xlabel="removed, %", ylabel="LDS", ylim=(0, 1))
ax.set_xticks([2, 10, 25, 50, 75, 90], [2, 10, 25, 50, 75, 90])
ax.minorticks_off()
ax.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
figures.show(fig)
''', "methods", "LDS of nine ways against the share of the training data that is removed. The grey line is the ceiling: what perfect scores would reach against this noisy truth.",
 "Influence functions and the mean of eight leave-one-out tables are near the ceiling when little is removed. When ninety percent is removed the similarity of pixels overtakes them all.", fold=True)
code('''
# Table: LDS by method and by what is kept, with leave-one-out itself.
wide = table.pivot(index="arm", columns="kept", values="value")
wide = wide.sort_values(0.5, ascending=False)
wide = wide[~wide.index.str.startswith("own")]
kept_columns = [0.1, 0.5, 0.9, 0.98, 0.999]
rows = [[name, *(f"{row[kept]:.2f}" for kept in kept_columns)]
        for name, row in wide.iterrows()]
figures.table(["method", "10 % kept", "50 %", "90 %", "98 %", "all but one"],
              rows, caption="LDS; the last column is Pearson's correlation "
              "with the mean leave-one-out table of eight other runs")
''', fold=True)
md("""
Read [the figure](#fig-11-methods) from right to left. When 90 % of the digits are gone, plain similarity of pixels is the best of all: what is left decides, and like helps like. When little is gone, curvature wins. So *the order of the methods turns over with the size of the removed set*, and an LDS at one size is not the quality of a method.

What decides within the family of influence functions? [The next figure](#fig-11-damping) compares names with dampings. Damping is a number that is added to the curvature before it is inverted.
""")
code('''
# Picture: influence functions by damping, and the Bayesian one beside them.
picked = {"Gauss-Newton .001": "Gauss-Newton, damping 0.001",
          "Gauss-Newton .01": "Gauss-Newton, damping 0.01",
          "Gauss-Newton .1": "Gauss-Newton, damping 0.1",
          "Bayesian .1": "Bayesian, damping 0.1",
          "EK-FAC .001": "EK-FAC, damping 0.001",
          "Hessian .003": "exact Hessian, damping 0.003"}
rows = table.query("kept == 0.5").set_index("arm").loc[list(picked)]
fig, ax = plt.subplots(figsize=(8.5, 3))
errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
ax.errorbar(rows["value"], list(picked.values()), xerr=errors, fmt="o",
            capsize=3)
ax.set(xlabel="LDS at half kept, one model", xlim=(0.3, 0.9))
ax.invert_yaxis()
figures.show(fig)
''', "damping", "LDS of one model's scores at half kept, with 95 % intervals over digits and subsets.",
 "The Gauss-Newton influence function falls as its damping grows from 0.001 to 0.1; the Bayesian influence function at damping 0.1 lies on the Gauss-Newton one at the same damping.", fold=True)
md("""
The Bayesian influence function at damping 0.1 is almost the ordinary one at that damping. That is what theory says for a loss that is nearly quadratic: its sampling noise plays the part of the inverse. So *two names can be one method, and one name with two dampings can be two*.

The **unrolled** derivative is the most faithful of all to its own run, and that is its weakness.
""")
code('''
# Table: the same scores judged by their own run, and by runs they never saw.
rows = []
for name, other in (("unrolled", "own run: unrolled"),
                    ("Gauss-Newton .001", "own run: Gauss-Newton .001")):
    for arm, judge in ((other, "its own run"), (name, "four other runs")):
        values = table[table["arm"] == arm].set_index("kept")["value"]
        rows.append([name, judge, *(f"{values[kept]:.2f}"
                                    for kept in (0.5, 0.9, 0.999))])
figures.table(["scores of one model", "judged by", "50 % kept", "90 %",
               "all but one"], rows)
''', fold=True)
md("""
## Does leaving one out predict leaving half out?

All these scores are sums. So the question behind the LDS is one of addition: is the effect of removing a group the sum of the effects of its members?
""")
code('''
# Picture: sums of single effects against effects of groups (released table).
added = released.results("loo_additivity")
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6))
for (name, rows), marker in zip(added.groupby("arm", sort=False), "osD^"):
    left.plot(rows["removed"] / 10, rows["pearson"], marker=marker,
              label=name)
    right.plot(rows["removed"] / 10, rows["slope"], marker=marker)
left.set(xscale="log", xlabel="removed, %", ylim=(0, 1.02),
         ylabel="correlation with the sum")
right.set(xscale="log", xlabel="removed, %", ylabel="slope on the sum",
          ylim=(0, 2.2))
right.axhline(1, color="black", lw=0.8)
left.legend(fontsize=8, loc="lower left")
figures.show(fig)
''', "additivity", "Effects of random groups against the sum of their members' single effects. Left: correlation, mean over the test digits. Right: slope; 1 means that effects add up.",
 "Within the same runs sums are almost perfect up to ten percent removed and then fall; between different runs the correlation is low at every size. Slopes stay near one up to ten percent and rise beyond.", fold=True)
md("""
Within its own run the sum is right up to about a tenth of the data. At half removed, what hurts most is again the seed: averaging eight runs repairs more than anything else.

Can we see the failure of addition alone, without any seed? Yes: in a **ridge regression**, where training has one answer. Let $F$ be fixed features with a row $f_i$ for each example, here 256 random products $(Lx) \\odot (Rx)$, and let the penalty be 1. The **hat matrix** is $H = F(F^\\top F + I)^{-1}F^\\top$, and its diagonal entry $h_i$ is the **leverage** of example $i$. With the residual $r_i$ and $k(x, i)$, an entry of the hat matrix for a new $x$, leaving $i$ out changes the prediction at $x$ by exactly

$$
-\\,k(x, i)\\,\\frac{r_i}{1 - h_i}.
$$

The influence function has the same formula without the division.
""")
code('''
from tensorlm.data_attribution import RidgeHead

seed = torch.Generator().manual_seed(0)
L, R = torch.randn(2, 256, 65, generator=seed, dtype=torch.float64)
features = lambda x: (x.double() @ L.T) * (x.double() @ R.T)
F, F_test = features(data.x), features(data.test_x)
targets = torch.nn.functional.one_hot(data.y).double()
head = RidgeHead(F, targets, penalty=1.0)

kept = torch.arange(1000) != 42
again = RidgeHead(F[kept], targets[kept], penalty=1.0).predict(F_test)
change = again - head.predict(F_test)
exact, first_order = head.leave_one_out(F_test), head.influence(F_test)
assert torch.allclose(exact[42], change, atol=1e-8)
assert not torch.allclose(first_order[42], change, atol=1e-3)
shrunk = exact * (1 - head.leverages)[:, None, None]
assert torch.allclose(first_order, shrunk, atol=1e-10)
''')
code('''
# Picture: leverages, and exact against first order by what is kept.
ridge = released.results("loo_ridge")
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
left.hist(head.leverages, bins=40, color="C4")
left.set(xlabel="leverage $h_i$", ylabel="training digits", xlim=(0, 1))
for (name, rows), marker in zip(ridge.groupby("arm"), "os"):
    right.plot(100 * (1 - rows["kept"]), rows["exact"] - rows["influence"],
               marker=marker, label=name)
right.axhline(0, color="black", lw=0.8)
right.set(xscale="log", xlabel="removed, %",
          ylabel="LDS: exact minus influence")
right.set_xticks([2, 10, 25, 50, 90], [2, 10, 25, 50, 90])
right.minorticks_off()
right.legend()
figures.show(fig)
''', "ridge", "Left: leverages in the ridge regression. Right: how much better the exact leave-one-out effects predict subsets than the influence function does; below zero they predict worse.",
 "Leverages lie around one quarter. Exact leave-one-out effects predict better than the influence function when little is removed, and worse when half or more is removed.", fold=True)
md("""
A surprise: where much is removed, the exact effects predict **worse** than the influence function, though nothing is random here. The factor $1/(1 - h_i)$ is right only while all other points are there. Being exact about one removal is not being right about many.
""")
md("""
## Which example decides when a model learns?

Some models learn a rule suddenly, long after they know their training data by heart: they [grok](glossary.md) {cite}`power2022grokking`. The public question was: *which examples mattered for that moment?* We can ask it of a bilinear model that adds numbers modulo 31. It reads two numbers $a$, $b$ and answers $D[(A a) \\odot (B b)]$; training has half of the 961 pairs.
""")
code('''
from tensorlm.data_attribution import Adder, grok, split_pairs

adder = Adder(decay=1.0, steps=400, every=10)
pairs = split_pairs(adder.p)
run = grok(adder, pairs, torch.ones(1, 480), seed=0)
print("test accuracy in the end above 0.9:",
      bool(run.accuracy[0, -1] > 0.9))
''')
code('''
# Picture: one run that groks; and 480 runs, each without one pair.
added = released.results("loo_grokking")
clean = added.query("arm == 'clean'").pivot(index="left_out", columns="seed",
                                            values="step")
shift = clean.loc[0:] - clean.loc[-1]
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
left.plot(torch.arange(len(run.accuracy[0])) * adder.every, run.accuracy[0])
left.set(xlabel="step", ylabel="accuracy on unseen pairs", ylim=(0, 1))
right.scatter(shift[0], shift[1], s=10)
right.axhline(0, color="black", lw=0.8)
right.axvline(0, color="black", lw=0.8)
right.set(xlabel="shift in steps, seed 0", ylabel="shift in steps, seed 1")
figures.show(fig)
pairwise = shift.corr()
strongest = max(abs(pairwise.loc[i, j]) for i, j in ((0, 1), (0, 2), (1, 2)))
record("strongest", float(strongest), digits=2)
''', "grok", "Left: a bilinear model on modular addition learns the rule. Right: for each of the 480 pairs, how much later the model without it gets half of the unseen pairs right, in two runs.",
 "Left: the accuracy on unseen pairs rises from near zero to almost one within a few hundred steps. Right: a round cloud of points; the shift in one run says nothing about the shift in the other.", fold=True)
md("""
Leaving a pair out does move the moment. But the shifts of two seeds have nothing in common: the strongest correlation among three runs is STRONG<!--=strongest-->. No single pair decides when this model groks. The pairs are exchangeable, and what moves the date is the run.

Is the method blind, then? A control says no. We give 12 of the 480 pairs a wrong sum and ask who finds them.
""".replace("STRONG", "0.00"))
code('''
# Picture: finding twelve wrong sums by two ways, in three runs.
wrong = added.query("arm == '12 wrong sums' and left_out >= 0")
def area(values, bad):      # chance that a bad pair ranks above a good one
    ranks = values.rank().to_numpy()
    n = bad.sum()
    return (ranks[bad].sum() - n * (n + 1) / 2) / (n * (len(bad) - n))

found = []
for _, rows in wrong.groupby("seed"):
    bad = rows["wrong"].to_numpy() == 1
    found.append((area(-rows["error"], bad), area(-rows["tracin"], bad)))
fig, ax = plt.subplots(figsize=(8.5, 2.6))
for row, values in enumerate(zip(*found)):
    ax.scatter(values, [row] * 3, s=60, color=f"C{row}")
ax.set_yticks([0, 1], ["leave-one-out,\\n480 trainings", "TracIn,\\n1 training"])
ax.set(xlim=(0.3, 1.02), ylim=(-0.5, 1.5),
       xlabel="chance that a wrong pair ranks above a right one")
ax.axvline(0.5, color="black", lw=0.8)
ax.invert_yaxis()
figures.show(fig)
''', "wrong", "Finding 12 wrong sums among 480 pairs, in three runs. One half is chance.",
 "The exact leave-one-out effects find the wrong sums only a little better than chance; TracIn, from one training, finds most of them.", fold=True)
md("""
The exact effect is the worse detective. A wrong pair fights the rule during the whole training, and a method that watches the gradients sees it. The date of grokking is one noisy number.

Where examples are *not* exchangeable, leaving out does find the teacher. We train one block on 200 documents of the toy language, 201 times for each of three seeds, and ask: does removing a document hurt a rule the more, the more often the document uses it?
""")
code('''
# Picture: effect of a document on a rule, against its use of rules.
read = released.results("loo_documents")
rules = ["bracket", "stop", "agree", "bigram", "induction", "skip"]
names = ["closing a bracket", "ending a sentence", "agreement",
         "title and verb", "repeating a title", "place and animal"]
fig, ax = plt.subplots(figsize=(8.5, 3.2))
for place, rule in enumerate(rules):
    for _, rows in read.groupby("seed"):
        out = rows[rows["left_out"] >= 0]
        effect = out[f"kl_{rule}"] - rows[f"kl_{rule}"].iloc[0]
        own = effect.corr(out[f"used_{rule}"])
        ax.plot(own, place, "o", color="C0")
        others = [effect.corr(out[f"used_{name}"]) for name in rules
                  if name != rule]
        ax.plot(others, [place + 0.22] * 5, "|", color="grey")
ax.axvline(0, color="black", lw=0.8)
ax.set_yticks(range(6), names)
ax.set_xlabel("correlation over 200 documents")
ax.invert_yaxis()
figures.show(fig)
''', "documents", "For each rule and seed: correlation of a document's effect on the rule with how often the document uses that rule (dots) or another rule (grey marks).",
 "The dots of closing a bracket and ending a sentence lie far to the right, agreement in the middle; for repeating a title and for place and animal they are near zero, like the grey marks of other rules.", fold=True)
md("""
For two rules the answer is clear: the documents that use the rule taught it. For agreement there is a weaker link. The rules that this small model has hardly learned from 200 documents have no teacher yet, and nothing stands out of the noise for them.
""")
md("""
## The verdicts

The questions came from a public discussion of attribution methods. [Claims](claims.md) has them with their sources.

| statement | verdict here |
| --- | --- |
| A thousand models without one point are exactly what you want | for one run; several paired runs are needed for the point itself |
| A thousand exact points beat a million noisy ones | one influence function beats a table of 1,001 trainings; eight tables equal four influence functions |
| 100 subsets are there because LDS is noisy | yes: the error falls as one over the root of the number of subsets, and all test points share it |
| The spread over test points decides between methods | only for near ties; then the subsets matter more |
| Some examples decide when a model groks | not one of 480 pairs, in three runs |
""")
md("""
## Limits, and a failure

All of this is about small classifiers of digits, one block of a language model, and one way to shuffle. Effects in larger models may be smaller or larger against the seed.

One failure is worth seeing, because it can pass for a result. At 10 % kept, a batch of 50 holds five digits. If the gradient is divided by the digits *present*, steps stay large, and some models diverge. A model that says NaN would rank last and still give a plausible LDS. The bank refuses to hand such models over.
""")
code('''
few = draw_subsets(data.y, kept=0.1, count=20, draw="stratified")
careless = Recipe(divide="present")
try:
    train_bank(data.x, data.y, few.float(), careless)
except ValueError as error:
    print(str(error).partition(", got")[0])
careful = train_bank(data.x, data.y, few.float(), recipe)
assert careful.nonfinite() == []
''')
def exercise(number, title, stars, minutes, text, hint, stub, solution, words=""):
    label = "ex-" + number.replace(".", "-")
    md(f"""
:::{{exercise}} {number} {title}
:label: {label}
:nonumber:
{stars}, {minutes} minutes. {text}

<details><summary>Hint</summary>
{hint}
</details>
:::
""")
    code(stub)
    md(f"""
:::{{solution}} {label}
<details><summary>Solution</summary>

{words}

```python
{solution.strip()}
```

</details>
:::
""")

EX = []
first = len(cells)
exercise("11.1", "How many runs?", "★☆☆", 3,
 "The point has variance `point` and the interaction `interaction`. How many paired runs must be averaged for a reliability of `rho`? Return the number without rounding.",
 "Stuck? Write the formula of the reliability, ρ = p / (p + w/k), and solve it for k.",
 '''
from tensorlm.notebook import check

def runs_needed(point, interaction, rho):
    ...

check("11.1", runs_needed)
''', '''
def runs_needed(point, interaction, rho):
    return rho / (1 - rho) * interaction / point
''', "Without any signal the number is infinite; with equal variances a reliability of 0.8 takes four runs.")
cells[first].source = "## Exercises\n\nReplace each `...` and run the cell: its check says what is likely wrong.\n\n" + cells[first].source
exercise("11.2", "Leave one out without training", "★★☆", 12,
 "Ridge regression with features `F` (n, k), targets `y` (n,) and a penalty. Return the n **leave-one-out residuals**: for each example, its target minus the prediction of the model that was trained without it. Use one matrix inverse, no loop.",
 "Stuck? Compute the hat matrix and the ordinary residuals first. By what must the residual of an example be divided?",
 '''
def left_out_residuals(F, y, penalty):
    ...

check("11.2", left_out_residuals)
''', '''
def left_out_residuals(F, y, penalty):
    inverse = torch.linalg.inv(F.T @ F + penalty * torch.eye(F.shape[1]))
    H = F @ inverse @ F.T
    return (y - H @ y) / (1 - H.diagonal())
''', "The residual $r_i$ grows to $r_i/(1-h_i)$: a point with leverage one half pulls the fit half of the way towards itself.")
exercise("11.3", "Pair by seed", "★☆☆", 6,
 "`full` (seeds,) has one outcome of the full model for each seed, and `without` (seeds, n) those of the models without each example. Return the mean effects (n,) over seeds from **paired** differences, and beside them their standard errors (n,).",
 "Stuck? Subtract first, then take the mean over the seeds. The standard error is the deviation over the root of the number of seeds.",
 '''
def paired_effects(full, without):
    ...

check("11.3", paired_effects)
''', '''
def paired_effects(full, without):
    effects = without - full[:, None]
    return effects.mean(0), effects.std(0) / len(full) ** 0.5
''', "Averaging first and subtracting afterwards gives the same mean, but the error of unpaired samples is far larger.")
exercise("11.4", "An LDS by hand", "★★☆", 12,
 "`scores` (n,) belong to one test point, `kept` (M, n) says which examples each subset keeps, `outcome` (M,) is the retrained outcome. Return the LDS of this test point. No two values are equal.",
 "Stuck? Sum the scores of the examples that are *not* kept; rank both; correlate the ranks.",
 '''
def lds_of_one(scores, kept, outcome):
    ...

check("11.4", lds_of_one)
''', '''
def lds_of_one(scores, kept, outcome):
    predicted = (~kept).double() @ scores.double()
    ranks = [v.argsort().argsort().double() for v in (predicted, outcome)]
    return torch.corrcoef(torch.stack(ranks))[0, 1]
''', "Scores say what a *removal* does. With the sums over what is kept the sign turns over.")
exercise("11.5", "Find the mislabelled digits", "★★★", 20,
 "The check plants wrong labels on 20 of 600 digits and calls your function with the data. Return the 20 training indices that you suspect. Half of them must be right. Training a few models is allowed; looking at the test labels too.",
 "Stuck? A wrong label is one that the model without it would not give. Which score of this chapter says so for a digit *itself*? Or train on all, and look for the largest losses.",
 '''
def suspects(data):      # data.x, data.y, data.test_x, data.test_y
    ...

check("11.5", suspects)
''', '''
def suspects(data):
    recipe = Recipe(divide="batch", epochs=5)
    model = train_bank(data.x, data.y, torch.ones(1, len(data.x)), recipe)
    losses = outcomes(model, data.x, data.y, "loss")[0]
    return losses.argsort(descending=True)[:20].tolist()
''', "Five passes are too few to learn twenty exceptions by heart, so their losses stay large. After eighty passes the same idea fails. An influence function of each digit on its own loss works as well.")
exercise("11.6", "Open: a better question", "★★★", 30,
 "Which single *outcome* would you ask leave-one-out about, so that two runs agree better than they do on the margin of one digit? Choose any function of the logits on all test digits, and return the correlation over the training digits of its effects in run 0 and run 1. More than 0.5 is good.",
 "Stuck? Averages over many digits have less noise than single ones. Start with the mean loss of one class.",
 '''
def agreement():
    ...

check("11.6", agreement)
''', '''
def agreement():
    effects = [run.effects("loss").double() for run in runs[:2]]
    fours = data.test_y == 4
    pair = torch.stack([table[:, fours].mean(1) for table in effects])
    return torch.corrcoef(pair)[0, 1]
''', "The mean loss over a class asks about many digits at once; the noise of single ones averages out.")
md("""
## Summary

Leaving one example out is exact for one run. It takes several runs, paired by seed, to know the example; methods must be compared at the size of removal that one cares about.

| object | formula | name |
| --- | --- | --- |
| many models | rows of weights on the examples | `train_bank` |
| leave-one-out effect | $m_{\\text{without } i}(t) - m(t)$ | `leave_one_out` |
| point, run, interaction | $m_{is} = \\text{mean} + p_i + r_s + w_{is}$ | `two_way` |
| exact effect of a ridge head | $-k(x, i)\\, r_i/(1 - h_i)$ | `RidgeHead` |
| linear datamodelling score | Spearman of summed scores | `lds` |
| influence function | $g_t^\\top (C + \\lambda I)^{-1} g_i / n$ | `influence` |

All names of the package stand in the [reference](api.md).

## Where next

- [Chapter 02](02_scale_and_direction.ipynb) has the layer that all of this stands on.
- {cite}`nguyen2023bayesian` finds the same noise in larger networks, and {cite}`kreer2025bayesian` proposes the Bayesian influence function.
""")
nb = nbf.v4.new_notebook(cells=cells)
import sys
path = sys.argv[1]
try:
    nb.metadata = nbf.read("book/10_steering_a_language_model.ipynb", 4).metadata
except Exception: pass
for n, c in enumerate(nb.cells): c["id"] = f"c11-{n:03d}"
nbf.write(nb, path)
print(len(cells), sum(c.cell_type == "code" for c in cells))

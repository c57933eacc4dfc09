"""Models without one document: each is the model that one would train alone, and what does not fit is said."""

import math

import pytest
import torch

from tensorlm.data.toy import ToyData
from tensorlm.data_attribution import documents, without

READER = documents.Reader(width=8, hidden=8, epochs=2, batch=10)


@pytest.fixture(scope="module")
def texts():
    return ToyData(valid_documents=8).annotated_batch(0, 20, 12, 0)


def alone(reader: documents.Reader, tokens, weights, seed: int):
    """The same training of one model by autograd."""
    model = reader.model(tokens.shape[1] - 1, seed)
    optimiser, generator = torch.optim.Adam(model.parameters(), reader.rate), torch.Generator().manual_seed(seed)
    batches = [rows for _ in range(reader.epochs) for rows in torch.randperm(len(tokens), generator=generator).split(reader.batch)]
    for step, rows in enumerate(batches):
        losses = torch.nn.functional.cross_entropy(model(tokens[rows, :-1]).mT, tokens[rows, 1:], reduction="none").mean(1)
        loss = (weights[rows] * losses).sum() / len(rows) + reader.decay / 2 * sum(p.pow(2).sum() for p in model.parameters())
        optimiser.zero_grad()
        loss.backward()
        share = step / len(batches) if reader.schedule == "cosine" else 0.0
        optimiser.param_groups[0]["lr"] = reader.rate * (1 + math.cos(math.pi * share)) / 2
        optimiser.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_each_model_is_the_one_that_is_trained_alone(texts, schedule):
    reader, weights = documents.Reader(width=8, hidden=8, epochs=2, batch=10, schedule=schedule), without(20, [3, 7])
    stacked = documents.train(reader, reader.model(texts.tokens.shape[1] - 1, 5), texts.tokens, weights.float(), seed=5)
    for row in (0, 2):
        for name, value in alone(reader, texts.tokens, weights[row].float(), seed=5).items():
            torch.testing.assert_close(stacked[name][row], value.detach(), rtol=1e-3, atol=1e-4)
    embedding = next(iter(stacked.values()))
    assert not torch.allclose(embedding[0], embedding[2], rtol=1e-3, atol=1e-4)


def test_reading_gives_one_judgement_a_model(texts):
    judged = ToyData(valid_documents=8).valid_batch(12)
    found = documents.read(READER, texts, without(20, [3]), judged)
    assert len(found) == 2 and found[0].keys() == found[1].keys() and found[0] != found[1]
    assert all(math.isfinite(value) for value in found[0].values())


def test_what_does_not_fit_is_said(texts):
    with pytest.raises(ValueError, match=r"weights must be a matrix \(models, 20\)"):
        documents.read(READER, texts, torch.ones(2, 19), texts)
    with pytest.raises(ValueError, match="schedule must be one of"):
        documents.Reader(schedule="linear")

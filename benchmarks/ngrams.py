"""Counts of n-grams: the honest floor of a language-modelling benchmark.

Interpolated absolute discounting: p_n(w | h) = max(c(h w) - delta, 0) / c(h) + delta N(h) / c(h) p_(n-1)(w | h'), with
N(h) the number of distinct continuations of h and p_0 uniform (Chen and Goodman 1999, section 2).
"""

import time

import numpy as np

DISCOUNT = 0.75


def ngram_loss(train: np.ndarray, windows: np.ndarray, vocab_size: int, order: int) -> tuple[float, float]:
    """Mean nats per token on `windows` (n, context + 1) with up to `order` previous tokens, and CPU-seconds.

    Like a model's, the context starts empty in each window: position t sees t + 1 tokens at most.
    """
    started = time.process_time()
    probability = np.full((windows.shape[0], windows.shape[1] - 1), 1.0 / vocab_size)
    for used in range(order + 1):
        first = max(used - 1, 0)  # positions before it have fewer tokens to look at
        probability[:, first:] = _interpolate(train, windows, vocab_size, used, probability[:, first:])
    return float(-np.log(probability).mean()), time.process_time() - started


def _interpolate(train: np.ndarray, windows: np.ndarray, vocab: int, used: int, lower: np.ndarray) -> np.ndarray:
    grams, counts = np.unique(_codes(train[None], vocab, used + 1)[0], return_counts=True)
    histories, inverse = np.unique(grams // vocab, return_inverse=True)
    totals = np.bincount(inverse, weights=counts)
    distinct = np.bincount(inverse)
    asked = _codes(windows, vocab, used + 1)
    if used == 0:
        asked = asked[:, 1:]  # the first token of a window is never predicted
    count = _lookup(grams, counts, asked)
    total = _lookup(histories, totals, asked // vocab)
    kinds = _lookup(histories, distinct, asked // vocab)
    seen = np.maximum(total, 1)
    blended = np.maximum(count - DISCOUNT, 0) / seen + DISCOUNT * kinds / seen * lower
    return np.where(total > 0, blended, lower)


def _codes(rows: np.ndarray, vocab: int, length: int) -> np.ndarray:
    """Each run of `length` tokens as one number: (rows, columns - length + 1)."""
    columns = rows.shape[1] - length + 1
    code = np.zeros((rows.shape[0], columns), dtype=np.int64)
    for offset in range(length):
        code = code * vocab + rows[:, offset : offset + columns].astype(np.int64)
    return code


def _lookup(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)

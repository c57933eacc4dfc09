"""Pairs of words for vectors in English of Shakespeare's kind, and which of them a tokenizer writes as one token."""

from collections.abc import Callable, Iterable

WORD_PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "you/thou": (("you", "thou"), ("you", "thee"), ("your", "thy"), ("yours", "thine"), ("yourself", "thyself"), ("are", "art"),
                 ("have", "hast"), ("do", "dost"), ("will", "wilt"), ("shall", "shalt"), ("You", "Thou"), ("Your", "Thy")),
    "common/royal": (("man", "king"), ("woman", "queen"), ("sir", "lord"), ("son", "prince"), ("friend", "duke"), ("hat", "crown"),
                     ("chair", "throne"), ("house", "palace"), ("boy", "heir"), ("fellow", "majesty"), ("servant", "sovereign")),
    "war/peace": (("war", "peace"), ("wars", "love"), ("sword", "music"), ("blood", "wine"), ("fight", "rest"), ("battle", "feast"),
                  ("enemy", "friend"), ("enemies", "friends"), ("death", "life"), ("fury", "mercy"), ("kill", "kiss"), ("hate", "love")),
}


def single_tokens(pairs: Iterable[tuple[str, str]], encode: Callable[[str], list[int]],
                  before: str = " ") -> dict[tuple[str, str], tuple[int, int]]:
    """The pairs of which `encode` writes both words, after `before`, as one token each, with those tokens.

    A byte-pair table has other tokens for a word after a blank and at the start of a line: `before` is " " or "".

    >>> table = {" you": [5], " thou": [8], " yours": [5, 2], " thine": [9]}
    >>> single_tokens([("you", "thou"), ("yours", "thine")], table.__getitem__)
    {('you', 'thou'): (5, 8)}
    """
    encoded = {pair: tuple(encode(before + word) for word in pair) for pair in pairs}
    kept = {pair: (first[0], second[0]) for pair, (first, second) in encoded.items() if len(first) == len(second) == 1}
    if not kept:
        raise ValueError(f"pairs: the tokenizer writes no pair of {list(encoded)} as one token a word")
    return kept

"""The exercises of the book, one module a chapter: every `Exercise` in `ch01.py` is registered."""

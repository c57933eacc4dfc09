"""tensorlm: language models whose layers are polynomials.

The package of the book. Importing it is light (no torch); import the part you need:
``tensorlm.layers``, ``tensorlm.model``, ``tensorlm.data``, ``tensorlm.training``, ``tensorlm.notebook``.
"""

__version__ = "0.1.0"

"""tensorlm: language models whose layers are polynomials, the package of the book.

Importing it is light (no torch); import the part you need: `tensorlm.layers`, `tensorlm.model`, `tensorlm.tensors`, `tensorlm.polynomials`,
`tensorlm.steering`, `tensorlm.data` (and `.toy`), `tensorlm.training` (and `.experiments`), `tensorlm.notebook`, `tensorlm.released`.
"""

__version__ = "0.1.0"

"""Arithmetic of polynomials: powers of one and several variables, ratios, Chebyshev series and their roots. Knows no model."""

from tensorlm.polynomials.chebyshev import ChebyshevSeries
from tensorlm.polynomials.powers import Polynomial, Ratio

__all__ = ["ChebyshevSeries", "Polynomial", "Ratio"]

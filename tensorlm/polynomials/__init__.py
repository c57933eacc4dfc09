"""Arithmetic of polynomials: powers of one and several variables, Chebyshev series and their roots. Knows no model."""

from tensorlm.polynomials.chebyshev import ChebyshevSeries, PiecewiseSeries, TippingPoint
from tensorlm.polynomials.powers import Monomials, Polynomial

__all__ = ["ChebyshevSeries", "Monomials", "PiecewiseSeries", "Polynomial", "TippingPoint"]

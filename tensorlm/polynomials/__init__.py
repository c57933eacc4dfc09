"""Arithmetic of polynomials: powers of one and several variables, ratios, Chebyshev series and their roots. Knows no model."""

__all__: list[str] = []

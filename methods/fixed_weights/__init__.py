"""Weights that are fixed, round by round, to few values: what the methods that do so share.

How values are chosen, and how weights are trained in between, is a method's own. `fit.py` has the stages of a fit,
`posterior.py` the distribution and its bytes.
"""

"""Relabelling hidden units: permutation groups of a network as data, and what is done with them.

Of one network: its groups (`families`, `check`). Of two sets of weights: the best permutation (`matching`), its number
of transpositions, the loss along the line between both (`barrier`). Of many: one common labelling (`align`). Nothing
here knows where the weights come from: samples of a chain, members of an ensemble and draws of a Gaussian are all the
same, mappings of names to tensors.
"""

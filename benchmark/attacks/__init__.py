"""Adversarial attacks on the predictive distribution: test examples changed a little so that the prediction is wrong.

`config`: what an attack is, as a study spells it; `rules`: where a step goes and what it must not leave; `gradient`:
the exact gradient of what is ascended, over all draws; `ascent`: the loop. Importing the package costs nothing.
"""

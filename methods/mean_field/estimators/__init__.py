"""Estimators of the gradient of the expected loss: one draw per step, and which noise an example sees.

| estimator | noise                           | across examples         | layers                  |
| shared    | one weight sample for the batch | the same                | any                     |
| exemplar  | a weight sample per example     | independent             | linear, conv, norms     |
| flipout   | one sample, random signs        | uncorrelated            | linear, conv            |
| local     | noise on the outputs of layers  | independent             | linear, conv            |

The first three have the law of the weights inside every example. `local` has the marginal law only: it forgets that
the outputs at two places of an image, or of two tokens, come from the same weights, so it trains another model.
"""

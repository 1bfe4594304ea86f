"""Stage 2 of stochastic weight sharing: from (mu, sigma) of every weight to shared Gaussians. Needs no network and no
data; see `share.share`."""

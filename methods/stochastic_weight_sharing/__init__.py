"""`2dgbnn`: stochastic weight sharing. This module only declares; what computes is imported when a run starts."""

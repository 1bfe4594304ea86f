"""Sampling the posterior over weights: Hamiltonian Monte Carlo, and stochastic gradients where it is out of reach."""

"""Launchers: they decide when and where a run's worker starts, and hand it one string, the run's folder."""

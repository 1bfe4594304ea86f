"""Metrics: pure functions of stored predictions, decoded weights and measured costs, pinned and versioned."""

"""No deadlines: a shared machine may stall any example for longer than Hypothesis' 200 ms."""

from hypothesis import settings

settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")

"""What holds for all tests."""

from hypothesis import settings

# A time limit per example measures how busy the machine is; pytest has one for whole tests.
settings.register_profile("bnnbench", deadline=None)
settings.load_profile("bnnbench")

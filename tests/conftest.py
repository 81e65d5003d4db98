"""For all tests: speed is a benchmark's matter (tests/bench), so hypothesis sets no deadlines."""

from hypothesis import settings

settings.register_profile("lbctl", deadline=None)
settings.load_profile("lbctl")

"""What all tests share."""

from hypothesis import settings

# How long an example takes is the machine's business: a busy one would fail tests at random.
settings.register_profile("perfwatt", deadline=None)
settings.load_profile("perfwatt")

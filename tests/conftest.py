"""What all tests share."""

from hypothesis import HealthCheck, settings

# How long an example, or making one, takes is the machine's business: a busy one would fail tests at random.
settings.register_profile("perfwatt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("perfwatt")

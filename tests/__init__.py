"""Behaviours, one to a docstring. Every module's examples are the same in each run, and take the time they take."""

from hypothesis import HealthCheck, settings

# Machines that test are often busy: how long an example takes says nothing about the code.
settings.register_profile(
    "tickertape", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("tickertape")

"""How many examples Hypothesis tries, by profile."""

from hypothesis import settings


# A commit must not fail for an example that another run would not have tried.
settings.register_profile("ci", derandomize=True, max_examples=60)
settings.register_profile("quick", derandomize=True, max_examples=25)
# Each run tries other examples, and ten times as many.
settings.register_profile("thorough", print_blob=True)
settings.load_profile("ci")

_QUICK = 12


def examples(count: int) -> int:
    """Return how many examples the profile asks for where ``count`` is the usual number."""
    profile = settings.get_current_profile_name()
    return {"quick": min(count, _QUICK), "thorough": 10 * count}.get(profile, count)


def is_thorough() -> bool:
    """Return whether tests run at full length."""
    return settings.get_current_profile_name() == "thorough"

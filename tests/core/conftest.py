"""How many examples hypothesis tries: the same ones every time, few enough for a slow machine."""

from hypothesis import settings

settings.register_profile("core", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("core")

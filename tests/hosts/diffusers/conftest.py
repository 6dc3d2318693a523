import pytest
from diffusers import DiffusionPipeline

from .tiny import TINY, Tiny


@pytest.fixture(scope="session", params=TINY)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """The toy of each family in turn."""
    return TINY[request.param]


@pytest.fixture(scope="session")
def pipe(tiny: Tiny) -> DiffusionPipeline:
    """Its pipeline. Tests leave it as they found it."""
    return tiny.make()

import pytest
from diffusers import DiffusionPipeline

from .tiny import TINY


@pytest.fixture(scope="session", params=TINY)
def pipe(request: pytest.FixtureRequest) -> DiffusionPipeline:
    """A toy pipeline of each family in turn. Tests leave it as they found it."""
    return TINY[request.param]()

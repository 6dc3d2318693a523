"""What tests of the ComfyUI host share: each family's toy, and a store that begins empty."""

import pytest
from conceptattention.conceptattention_core.hosts.comfyui.families import FAMILIES
from conceptattention.conceptattention_core.hosts.comfyui.store import STORE

from ...comfyui.tiny import HERE, TINY, Tiny


@pytest.fixture(params=[family.name for family in FAMILIES])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """The toy of each family in turn."""
    if request.param not in HERE:
        pytest.skip("this ComfyUI does not have the family")
    return TINY[request.param]


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    """Recordings of one test are none of another's."""
    STORE.clear()

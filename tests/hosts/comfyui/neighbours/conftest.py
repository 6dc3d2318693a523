"""Fixtures of this folder."""

import pytest

from ....comfyui.tiny import HERE, Tiny


@pytest.fixture(params=HERE)
def tiny(request) -> Tiny:
    return HERE[request.param]

"""What several tests of this folder share."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image


def blob(text: str) -> dict:
    (found,) = re.findall(
        r'<script type="application/json" id="page">(.*?)</script>', text, re.DOTALL
    )
    return json.loads(found)


def picture(data: dict) -> np.ndarray:
    kind, _, content = data["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))

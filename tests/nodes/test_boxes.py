"""Concept Boxes: boxes, points and SEGS around the parts of masks."""

import json

import numpy as np
import pytest
import torch
from conceptattention.conceptattention_core.output.layers import find_bounds
from conceptattention.nodes.regions import Boxes
from hypothesis import given
from hypothesis import strategies as st

from ..comfyui.tiny import call
from .common import box_mask, core_boxes, few, newer_comfyui, picture, run


def edges_of(boxes: list[dict]) -> list[tuple[int, int, int, int]]:
    return [
        (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes
    ]


def test_a_box_holds_the_mask_and_no_pixel_more():
    mask = box_mask((3, 4, 9, 20), (30, 10, 31, 11))
    (boxes,), bbox, segs, _ = run(Boxes, mask=mask, name="sun")
    assert boxes == [{"x": 3, "y": 4, "width": 28, "height": 16, "label": "sun"}]
    assert bbox == [(3, 4, 31, 20)]
    assert [segment.bbox for segment in segs[1]] == bbox


def test_each_part_gets_a_box_the_largest_first():
    parts = [(30, 10, 33, 12), (3, 4, 9, 20), (50, 38, 56, 40)]
    (boxes,), bbox, segs, _ = run(Boxes, mask=box_mask(*parts), name="sun", each_part=True)
    expected = [parts[i] for i in (1, 2, 0)]
    assert edges_of(boxes) == bbox == [segment.bbox for segment in segs[1]] == expected


@few
@given(st.integers(0, 50), st.integers(0, 36), st.integers(0, 60))
def test_a_margin_widens_a_box_as_far_as_the_picture_goes(left, top, margin):
    mask = box_mask((left, top, left + 5, top + 3))
    (boxes,), bbox, *_ = run(Boxes, mask=mask, name="a", margin=margin)
    expected = (
        max(0, left - margin), max(0, top - margin),
        min(56, left + 5 + margin), min(40, top + 3 + margin),
    )  # fmt: skip
    assert edges_of(boxes) == bbox == [expected]


@pytest.mark.parametrize("each_part", [False, True])
def test_an_empty_mask_has_no_boxes(each_part):
    found = run(Boxes, mask=box_mask(), name="sun", each_part=each_part, margin=5)
    assert found == ([[]], [], ((40, 56), []), "[]")


def test_each_picture_of_a_batch_has_its_own_boxes():
    masks = torch.cat(
        [box_mask(), box_mask((1, 2, 3, 4), (20, 20, 30, 30)), box_mask((5, 6, 7, 8))]
    )
    boxes, bbox, segs, _ = run(Boxes, mask=masks, name="sun", each_part=True)
    assert [edges_of(one) for one in boxes] == [
        [], [(20, 20, 30, 30), (1, 2, 3, 4)], [(5, 6, 7, 8)]
    ]  # fmt: skip
    assert (bbox, segs[1]) == ([], [])  # of the first picture


@few
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), min_size=1, max_size=3),
    st.floats(1, 10), st.integers(0, 9), st.booleans(),
)  # fmt: skip
def test_segs_are_what_the_impact_pack_reads(corners, factor, margin, each_part):
    mask = box_mask(*((x, y, x + 6, y + 9) for x, y in corners))
    segs = run(
        Boxes, mask=mask, name="sun", each_part=each_part, margin=margin, crop_factor=factor
    )[2]
    assert isinstance(segs, tuple) and segs[0] == (40, 56)
    assert isinstance(segs[1], list) and segs[1]
    back = torch.zeros(40, 56)
    for segment in segs[1]:
        assert segment._fields == (
            "cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label",
            "control_net_wrapper",
        )  # fmt: skip
        assert (segment.label, segment.confidence) == ("sun", 1.0)
        assert segment.cropped_image is None and segment.control_net_wrapper is None
        left, top, right, bottom = segment.crop_region
        box = segment.bbox
        assert 0 <= left <= box[0] < box[2] <= right <= 56
        assert 0 <= top <= box[1] < box[3] <= bottom <= 40
        assert isinstance(segment.cropped_mask, np.ndarray)
        assert segment.cropped_mask.dtype == np.float32
        assert segment.cropped_mask.shape == (bottom - top, right - left)
        back[top:bottom, left:right] += torch.from_numpy(segment.cropped_mask)
    if each_part:
        assert torch.equal(back, mask[0])
    else:
        assert torch.equal(back > 0, mask[0] > 0)


def test_a_crop_factor_shows_so_much_more_of_the_picture_than_the_box():
    mask = box_mask((20, 12, 30, 18))
    regions = [
        run(Boxes, mask=mask, name="a", crop_factor=factor)[2][1][0].crop_region
        for factor in (1.0, 2.0, 3.0, 10.0)
    ]
    assert regions == [(20, 12, 30, 18), (15, 9, 35, 21), (10, 6, 40, 24), (0, 0, 56, 40)]


@newer_comfyui
def test_core_draws_the_boxes_where_the_masks_are():
    from comfy_extras.nodes_rtdetr import DrawBBoxes

    masks = torch.cat([box_mask((10, 12, 40, 30)), box_mask()])
    boxes = run(Boxes, mask=masks, name="sun")[0]
    assert [box["x"] for box in core_boxes.boxes_from_input(boxes, 56, 40)] == [10]
    (drawn,) = call(DrawBBoxes, bboxes=boxes, image=torch.zeros(2, 40, 56, 3))
    touched = drawn.sum(-1) > 0
    assert find_bounds(touched[0]) == (10, 12, 41, 31)  # its lines end on the box's sides
    assert not touched[0, 15:28, 13:38].any()
    assert not touched[1].any()


@pytest.mark.parametrize("each_part", [False, True])
def test_a_point_lies_inside_each_part_the_largest_first(each_part):
    parts = [(3, 4, 10, 21), (30, 10, 35, 13), (50, 38, 51, 39)]  # the last one is a speck
    masks = torch.cat([box_mask(*parts), box_mask((0, 0, 56, 40))])
    points = json.loads(run(Boxes, mask=masks, name="sun", each_part=each_part)[3])
    assert len(points) == 2
    for point, (left, top, right, bottom) in zip(points, parts):
        assert left + 1 <= point["x"] < right - 1 and top + 1 <= point["y"] < bottom - 1


class Sam3:
    """Core's SAM 3 without weights: it notes what it is asked and answers with the same shape."""

    def __init__(self):
        self.model = self.diffusion_model = self
        self.boxes, self.points = [], []

    def get_dtype(self):
        return torch.float32

    def forward_segment(self, frame, point_inputs=None, box_inputs=None, mask_inputs=None):
        if point_inputs is not None:
            assert point_inputs["point_labels"].eq(1).all()
            self.points.append(point_inputs["point_coords"][0])
        if box_inputs is not None:
            self.boxes.append(box_inputs[0])
        return torch.ones(1, 1, 8, 8)


@pytest.mark.parametrize("each_part", [False, True])
def test_core_s_sam_3_gets_boxes_and_points_where_the_parts_are(monkeypatch, each_part):
    sam = pytest.importorskip("comfy_extras.nodes_sam3")
    monkeypatch.setattr(sam.comfy.model_management, "load_model_gpu", lambda model: None)
    inputs = {one.id: one.io_type for one in sam.SAM3_Detect.GET_SCHEMA().inputs}
    types = [one.io_type for one in Boxes.GET_SCHEMA().outputs]
    assert (inputs["bboxes"], inputs["positive_coords"]) == (types[0], types[3])
    parts = [(3, 4, 10, 21), (30, 10, 35, 13)]
    boxes, _, _, points = run(Boxes, mask=box_mask(*parts), name="sun", each_part=each_part)
    model = Sam3()
    call(sam.SAM3_Detect, model=model, image=picture(), bboxes=boxes, positive_coords=points)
    scale = torch.tensor([56, 40]) / 1008
    asked = [(box * scale).flatten().round().int().tolist() for box in model.boxes]
    assert asked == [list(part) for part in parts] if each_part else asked == [[3, 4, 35, 21]]
    (coords,) = model.points
    for (x, y), (left, top, right, bottom) in zip(coords * scale, parts, strict=True):
        assert left < x < right and top < y < bottom
    empty = run(Boxes, mask=box_mask(), name="sun")
    model = Sam3()
    call(sam.SAM3_Detect, model=model, image=picture(), bboxes=empty[0], positive_coords=empty[3])
    assert not model.boxes and not model.points

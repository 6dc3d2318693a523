"""Prompt after prompt, recording leaves nothing behind."""

import mmap

import pytest

from bench.soak import ALLOWED, QUICK, STRETCH, Soak, slope, soak


def test_recording_grows_no_more_than_plain_sampling(comfy):
    done = soak(QUICK)
    assert len(done.recorded) == QUICK // STRETCH + 1
    assert not done.grows, done


def test_what_is_kept_of_each_prompt_is_seen(comfy):
    kept = []

    def keep(_) -> None:  # not from the heap, where earlier tests have left room
        kept.append(mmap.mmap(-1, 2_000_000))
        kept[-1].write(b"1" * 2_000_000)

    assert soak(QUICK // 2, keep).grows
    assert len(kept) == QUICK // 2 + 1


@pytest.mark.parametrize(("more", "grows"), [(0.9 * ALLOWED, False), (1.1 * ALLOWED, True)])
def test_the_limit_is_plain_sampling_and_a_little(more, grows):
    def line(each: float) -> list[float]:
        return [each * STRETCH * at for at in range(41)]

    assert slope(line(0.05)) == pytest.approx(0.05)
    assert Soak(400, line(0.05), line(0.05 + more)).grows == grows
    # memory that plain sampling gives back allows recording nothing
    assert Soak(400, line(-1.0), line(more)).grows == grows

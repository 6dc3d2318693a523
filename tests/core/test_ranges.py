"""How users name steps and blocks."""

import pytest
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.ranges import ACCEPTED, select
from hypothesis import given
from hypothesis import strategies as st

COUNT = st.integers(1, 40)


@given(COUNT, st.sampled_from(["", "all", " ALL "]))
def test_all_is_everything(n, text):
    assert list(select(text, n, "steps")) == list(range(n))


@given(COUNT, st.data())
def test_numbers_count_from_zero_and_both_ends_belong(n, data):
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first, n - 1))
    everything = list(range(n))
    assert list(select(f"{first}", n, "steps")) == [first]
    assert list(select(f"{first}-{last}", n, "steps")) == everything[first : last + 1]
    assert list(select(f" {first} - {last} ", n, "steps")) == everything[first : last + 1]
    assert list(select(f"{first}-", n, "steps")) == everything[first:]


@given(COUNT, st.integers(1, 60))
def test_first_and_last_take_what_there_is(n, count):
    everything = list(range(n))
    assert list(select(f"First  {count}", n, "steps")) == everything[:count]
    assert list(select(f"last {count}", n, "steps")) == everything[-count:]


@pytest.mark.parametrize(("n", "half"), [(1, [0]), (2, [1]), (5, [3, 4]), (19, range(10, 19))])
def test_the_last_half_rounds_down_and_is_never_empty(n, half):
    assert list(select("last half", n, "blocks")) == list(half)


@given(COUNT, st.integers(0, 30))
def test_what_lies_outside_is_an_error_that_says_what_there_is(n, beyond):
    for text in (f"{n + beyond}", f"0-{n + beyond}"):
        with pytest.raises(ConceptAttentionError, match=f"Asked for blocks .* are {n}: 0 to"):
            select(text, n, "blocks")


@pytest.mark.parametrize("text", ["5-2", "9-", "first 0", "last 0"])
def test_a_range_that_contains_nothing_is_an_error(text):
    with pytest.raises(ConceptAttentionError, match=f"'{text}' contains no steps; there are 7"):
        select(text, 7, "steps")


@pytest.mark.parametrize("text", ["two", "-3", "1,2", "1-2-3", "first", "last -1", "1.5", "1 2"])
def test_what_cannot_be_read_is_an_error_that_lists_the_forms(text):
    with pytest.raises(ConceptAttentionError) as error:
        select(text, 7, "steps")
    assert f"'{text}'" in str(error.value)
    assert ACCEPTED in str(error.value)

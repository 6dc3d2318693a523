"""From what a user writes to concepts."""

import re

import pytest
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import (
    BACKGROUND,
    MOST_CONCEPTS,
    Concept,
    ConceptSet,
    parse,
)
from hypothesis import given
from hypothesis import strategies as st

WORD = (
    st.text("abcdefghijklmnop αβγ日本 '-()", min_size=1)
    .map(str.strip)
    .filter(
        # brackets around all of a word and a dash before it are marks, see test_prompt_syntax.py
        lambda word: word and not re.match(r"- |\(.*\)$", word)
    )
)


@pytest.mark.parametrize(
    "text",
    [
        "balloon, sun, red hot sky",
        "balloon\nsun\nred hot sky",
        "balloon,\r\n  sun ,,\n\n red hot sky,",
        "balloon，sun、red hot sky",
        "balloon: balloon, sun:, : red hot sky",
    ],
)
def test_lines_and_commas_of_any_script_separate_concepts(text):
    concepts = parse(text)
    assert concepts.names == ("balloon", "sun", "red hot sky")
    assert [c.words for c in concepts.concepts] == ["balloon", "sun", "red hot sky"]
    assert concepts.notices == ()


@pytest.mark.parametrize("text", ["lake: calm water, sky", "lake ： calm water，sky"])
def test_a_label_names_other_words(text):
    concepts = parse(text)
    assert concepts.names == ("lake", "sky")
    assert concepts.concepts[0] == Concept("lake", "calm water")


def test_only_the_first_colon_separates_the_name():
    assert parse("clock: a clock at 12:30, sky").concepts[0] == Concept("clock", "a clock at 12:30")


@given(st.lists(WORD, min_size=2, max_size=9, unique_by=str.casefold))
def test_order_is_kept(words):
    assert parse("\n".join(words)).names == tuple(words)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("sun, sky, sun", ("sun", "sky")),
        ("sun, sky, Sun, SUN", ("sun", "sky")),
        ("Straße, sky, STRASSE", ("Straße", "sky")),
        ("ＳＵＮ, sky, sun", ("ＳＵＮ", "sky")),
        ("cafe\N{COMBINING ACUTE ACCENT}, sky, café", ("cafe\N{COMBINING ACUTE ACCENT}", "sky")),
        ("sun: the star, sky, sun: yellow disc", ("sun", "sky")),
    ],
)
def test_the_first_of_a_repeated_name_counts_and_the_user_is_told(text, kept):
    concepts = parse(text)
    assert concepts.names == kept
    assert len(concepts.notices) == text.count(",") - 1
    assert all("more than once" in notice for notice in concepts.notices)


def test_the_same_words_under_two_names_are_two_concepts():
    assert len(parse("left: dog, right: dog")) == 2


@pytest.mark.parametrize("text", ["", "  \n ,,\n， ", "\r\n"])
def test_no_concepts_is_an_error_that_shows_how_to_write_them(text):
    for background in (False, True):
        with pytest.raises(ConceptAttentionError, match="No concepts were given.*for example"):
            parse(text, background)


def test_a_colon_alone_is_an_error_that_quotes_it():
    with pytest.raises(ConceptAttentionError, match="' ?: ?' names no concept"):
        parse("sun, : , sky")


def test_sixty_four_concepts_and_a_background_are_accepted_and_no_more():
    text = ",".join(f"thing {i}" for i in range(MOST_CONCEPTS))
    assert MOST_CONCEPTS == 64
    assert len(parse(text, background=True)) == 65
    with pytest.raises(ConceptAttentionError, match="Got 65 concepts; at most 64"):
        parse(text + ", one more")


def test_one_concept_gets_a_hidden_background_and_the_user_is_told():
    concepts = parse("sun")
    assert concepts.names == ("sun", BACKGROUND)
    assert concepts.shown == (0,)
    assert "background" in concepts.notices[0]


def test_an_asked_for_background_comes_last_and_is_hidden():
    concepts = parse("sun, sky", background=True)
    assert concepts.names == ("sun", "sky", BACKGROUND)
    assert concepts.shown == (0, 1)
    assert concepts.notices == ()


@pytest.mark.parametrize("text", ["Background, sun", "sun, background: plain wall"])
def test_a_background_of_the_users_own_is_shown_and_not_added_again(text):
    concepts = parse(text, background=True)
    assert len(concepts) == 2
    assert concepts.shown == (0, 1)


def test_a_concept_is_found_by_its_name_whatever_the_case_hidden_or_not():
    concepts = parse("Sun, red hot sky, café", background=True)
    assert [concepts.index_of(n) for n in (" sun", "RED hot sky", "CAFE\u0301", "background")] == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(ConceptAttentionError, match="named 'moon'. Recorded: Sun, red hot sky"):
        concepts.index_of(" moon")


def test_a_set_of_hidden_concepts_only_is_no_set():
    with pytest.raises(ConceptAttentionError, match="No concepts"):
        ConceptSet((Concept("background", "background", hidden=True),))

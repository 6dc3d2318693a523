"""Words written as for other tools are understood, and what is left out is told."""

import pytest
from conceptattention.conceptattention_core import ConceptAttentionError
from conceptattention.conceptattention_core.concepts import ConceptSet, parse, split_names
from conceptattention.conceptattention_core.texts import clean_text
from hypothesis import example, given
from hypothesis import strategies as st

PLAIN = st.from_regex(r"[b-hj-z]{2,8}( [b-hj-z]{2,8}){0,2}", fullmatch=True)
LISTS = st.lists(PLAIN, min_size=2, max_size=6, unique=True)
NUMBERS = st.sampled_from(["1.3", "2", ".5", "-1", "0.85", "+2."])


def shown(text: str) -> list[tuple[str, str]]:
    found = parse(text)
    return [(one.name, one.words) for one in found.concepts if not one.hidden]


@given(
    LISTS,
    st.sampled_from([",", ";", "|", "\n", " . ", ". ", "，", "、", "；", "｜", "。", "،", "\x0b"]),
)
def test_whatever_people_separate_words_with_separates_concepts(words, separator):
    for text in (separator.join(words), separator.join(words) + separator):
        found = parse(text)
        assert found.names == tuple(words)
        assert found.notices == ()


@given(
    LISTS,
    NUMBERS,
    st.sampled_from(["({}:{})", "( {} : {} )", "(({}:{}):1.1)", "{}:{}", "（{}：{}）"]),
)
def test_weights_and_counts_are_left_out_and_named(words, number, form):
    weighted = form.format(words[0], number)
    found = parse(", ".join([weighted, *words[1:]]))
    assert found == parse(", ".join(words))
    assert any("are for prompts" in notice and weighted in notice for notice in found.notices)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red (hot-air:1.2) balloon, sky", ["a red hot-air balloon", "sky"]),
        ("(balloon, sky:1.3), water", ["balloon", "sky", "water"]),
        ("(a beautiful (blue:1.2) sky:0.8), sun", ["a beautiful blue sky", "sun"]),
        ("(crane (bird):1.3), sky", ["crane (bird)", "sky"]),
        ("balloon:1.3), sky", ["balloon", "sky"]),
        ("((balloon)), [sky], {sun}", ["balloon", "sky", "sun"]),
        ("((sky, sun)), lake", ["sky", "sun", "lake"]),
        ('["balloon", "sky"]', ["balloon", "sky"]),
        ("{balloon | sky}", ["balloon", "sky"]),
        ("embedding:storybook, sky", ["storybook", "sky"]),
        ("an embedding:old tree, sky", ["an old tree", "sky"]),
        ("<lora:style:0.8>, balloon, sky", ["balloon", "sky"]),
        ("balloon <lora:style:0.8>, sky", ["balloon", "sky"]),
    ],
)
def test_marks_of_prompts_are_left_out_with_a_notice(text, expected):
    assert [name for name, _ in shown(text)] == [words for _, words in shown(text)] == expected
    assert len(parse(text).notices) == 1
    assert "are for prompts" in parse(text).notices[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "St. Bernard, Mr. Smith, U.S. flag, no. 5",
            ["St. Bernard", "Mr. Smith", "U.S. flag", "no. 5"],
        ),
        ("crane (bird), sky", ["crane (bird)", "sky"]),
        (r"crane \(bird\), sky", ["crane (bird)", "sky"]),
        ("version 2.5, robot.txt, well...", ["version 2.5", "robot.txt", "well..."]),
        ("1. balloon\n2. sky\n3) sun", ["balloon", "sky", "sun"]),
        ("- balloon\n* sky\n• sun", ["balloon", "sky", "sun"]),
        ('"balloon", “sky”', ["balloon", "sky"]),
        ('a 6" nail, a 3" bolt', ['a 6" nail', 'a 3" bolt']),
        ("a cat. a remote control.", ["a cat", "a remote control"]),
    ],
)
def test_what_needs_no_telling_is_read_without_a_notice(text, expected):
    assert [name for name, _ in shown(text)] == expected
    assert parse(text).notices == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lake: calm water. very deep, sky", ("lake", "calm water. very deep")),
        ("clock: a clock at 12:30, sky", ("clock", "a clock at 12:30")),
        ("lake: calm water; sky", ("lake", "calm water")),
        ("embedding: a plot of points, sky", ("embedding", "a plot of points")),
        ("bird: crane (bird), sky", ("bird", "crane (bird)")),
    ],
)
def test_a_label_keeps_its_words(text, expected):
    assert shown(text) == [expected, ("sky", "sky")]
    assert parse(text).notices == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(lake: calm water:1.3), sky", "calm water"),
        ("lake: calm water:1.3, sky", "calm water"),
        ("lake: (calm:1.2) water, sky", "calm water"),
        ("lake: embedding:calm water, sky", "calm water"),
    ],
)
def test_weights_around_a_label_or_in_its_words_are_left_out(text, words):
    assert shown(text)[0] == ("lake", words)
    assert len(parse(text).notices) == 1


def test_a_bracket_without_its_other_half_is_read_as_it_is_and_named():
    found = parse("(balloon, sky")
    assert found.names == ("(balloon", "sky")
    assert found.notices == (
        "A bracket lacks its other half and is read as it is written: '(balloon'.",
    )


def test_one_notice_names_a_few_of_many():
    (notice,) = parse(", ".join(f"(word{i}:1.1)" for i in range(9, 30))).notices
    assert "'(word9:1.1)' is read as 'word9'" in notice
    assert notice.endswith("and 17 more.")


def test_what_was_left_out_does_not_tell_two_sets_apart():
    assert parse("(sun:1.2), sky") == parse("sun, sky")
    assert hash(parse("(sun:1.2), sky")) == hash(parse("sun, sky"))


def test_repeated_names_are_named_whatever_stood_around_them():
    assert "'sun' was given more than once" in parse("sun, (sun:1.2), sky").notices[-1]


SIGNS = st.text(st.sampled_from("ab12.:;|,()[]{}<>\"'\\ \n-*+\t：（）") | st.characters())


@given(SIGNS)
@example("(" * 3000)
@example("(a" * 3000)
@example("[" + "(a)" * 3000)
@example("(" * 300 + "a" + ":1)" * 300)
@example("<lora:" * 3000)
@example("a:1" * 3000)
@example("a. " * 3000)
@example("\ud83d:\udc00")
def test_any_text_gives_clean_concepts_that_are_found_or_one_sentence(text):
    try:
        found = parse(text)
    except ConceptAttentionError as error:
        str(error).encode()
        return
    assert isinstance(found, ConceptSet)
    for i, concept in enumerate(found.concepts):
        assert found.index_of(concept.name) == i
        for said in (concept.name, concept.words):
            assert said == clean_text(said).strip() != ""
            assert "\n" not in said
    for notice in found.notices:
        notice.encode()


@given(LISTS)
def test_names_are_picked_as_they_were_given(words):
    for separator in (", ", " | ", ";", " . "):
        assert split_names(separator.join(words)) == words
        assert split_names(f"({words[0]}:1.2){separator}" + separator.join(words[1:])) == words

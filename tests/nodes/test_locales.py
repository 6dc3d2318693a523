"""The nodes' texts in every language: complete, none left over, English as the schemas say.

When it fails: python -m tools.locales (its first lines say how), then fill what it names.
"""

from pathlib import Path

import pytest
from conceptattention.tools import locales

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ["en", "de", "es", "fr", "ja", "ko", "zh"]
OPTIONS = {"mean", "otsu", "fixed", "top area", "hysteresis", "competition"}


def every_text(texts: dict, path: str = ""):
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from every_text(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def test_there_is_a_folder_for_each_language():
    assert sorted(path.parent.name for path in (ROOT / "locales").glob("*/nodeDefs.json")) == (
        sorted(LANGUAGES)
    )


def test_english_is_what_the_nodes_say(server):
    assert locales.read("en") == locales.read_texts(server.object_info())


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_nothing_is_missing_left_over_or_untranslated(language):
    english, other = locales.read("en"), locales.read(language)
    assert locales.list_gaps(english, other) == []
    told = dict(every_text(other))
    same = [
        path
        for path, text in every_text(english)
        if path.endswith(("tooltip", "description")) and told[path] == text
    ]
    assert same == []


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_choices_are_called_what_the_page_calls_them(language):
    """The page does not translate the values of a choice."""
    for node in ("ConceptAttentionMasks", "ConceptAttentionPick"):
        told = locales.read(language)[node]["inputs"]["threshold"]["tooltip"]
        assert all(option in told for option in OPTIONS), (node, told)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_gets_them(server, language):
    offered = server.get("/api/i18n")[language]["nodeDefs"]
    assert offered["ConceptAttentionRecord"] == locales.read(language)["ConceptAttentionRecord"]

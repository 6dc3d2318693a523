"""What the user wants to find: names, and the words the model reads for each."""

import re
import unicodedata
from dataclasses import dataclass, field

from . import ConceptAttentionError
from .prompt_syntax import read_entries
from .texts import clean_text

MOST_CONCEPTS = 64
BACKGROUND = "background"
EXAMPLE = "one per line or comma-separated, for example 'balloon, sun, lake: calm water'"


@dataclass(frozen=True)
class Concept:
    name: str
    words: str
    """What the text encoder reads: the name itself unless the user wrote `name: words`."""
    hidden: bool = False
    """Takes part in the softmax but gets no mask unless asked for (the added background)."""

    def __post_init__(self):
        for field_name in ("name", "words"):  # text comes in here from programs, too
            text = clean_text(getattr(self, field_name)).replace("\n", " ")
            object.__setattr__(self, field_name, text)


@dataclass(frozen=True)
class ConceptSet:
    """Concepts in the user's order; an added background comes last."""

    concepts: tuple[Concept, ...]
    notices: tuple[str, ...] = field(default=(), compare=False)
    """What was changed on the way from text to concepts, in sentences for the user."""

    def __post_init__(self):
        if not any(not concept.hidden for concept in self.concepts):
            raise ConceptAttentionError(f"No concepts were given. Write {EXAMPLE}.")
        if len(self.concepts) > MOST_CONCEPTS + 1:
            raise ConceptAttentionError(
                f"Got {len(self.concepts)} concepts; at most {MOST_CONCEPTS} are accepted."
            )

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(concept.name for concept in self.concepts)

    @property
    def shown(self) -> tuple[int, ...]:
        """Positions of the concepts that get a mask."""
        return tuple(i for i, concept in enumerate(self.concepts) if not concept.hidden)

    def index_of(self, name: str) -> int:
        """The position of a concept by name, whatever its case; hidden ones are found too."""
        for i, concept in enumerate(self.concepts):
            if key_of(concept.name) == key_of(name):
                return i
        raise ConceptAttentionError(
            f"There is no concept named '{name.strip()}'. Recorded: {', '.join(self.names)}."
        )


def split_names(text: str) -> list[str]:
    """The entries of a list, separated and freed of weights as concepts are: names to pick."""
    return read_entries(text)[0]


def parse(text: str, background: bool = False) -> ConceptSet:
    """Concepts from text, one per line or comma-separated, `name: words the model reads` allowed.

    What people write for other tools is understood (see `prompt_syntax`): full stops, bars and
    semicolons separate, too; weights, counts and embeddings are left out with a notice.
    Order is kept and repeated names are dropped with a notice. A hidden background concept is
    added when `background` is set, and also when there is just one concept: the softmax over one
    is 1 everywhere (https://github.com/helblazer811/ConceptAttention shows it as a blank map).
    """
    concepts: dict[str, Concept] = {}
    entries, notices = read_entries(text)
    for entry in entries:
        name, _, words = (part.strip() for part in re.sub("：", ":", entry).partition(":"))
        concept = Concept(name or words, words or name)
        if not concept.name:
            raise ConceptAttentionError(f"'{entry}' names no concept. Write {EXAMPLE}.")
        if key_of(concept.name) in concepts:
            notices.append(f"'{concept.name}' was given more than once; the first one counts.")
        else:
            concepts[key_of(concept.name)] = concept
    if len(concepts) > MOST_CONCEPTS:
        raise ConceptAttentionError(
            f"Got {len(concepts)} concepts; at most {MOST_CONCEPTS} are accepted."
        )
    if set(concepts) == {BACKGROUND}:
        raise ConceptAttentionError(
            f"'{BACKGROUND}' alone has nothing to differ from. Name at least one more concept, "
            f"{EXAMPLE}."
        )
    if concepts and BACKGROUND not in concepts and (background or len(concepts) == 1):
        concepts[BACKGROUND] = Concept(BACKGROUND, BACKGROUND, hidden=True)
        if not background:
            notices.append("A background was added: a single concept has nothing to differ from.")
    return ConceptSet(tuple(concepts.values()), tuple(notices))


def key_of(name: str) -> str:
    """What two names have in common that mean the same concept."""
    return unicodedata.normalize("NFKC", clean_text(name)).strip().casefold()

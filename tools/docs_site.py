"""What the documentation site makes of docs/*.md, for MkDocs (`hooks` in mkdocs.yml).

The pages read well on their own, as links. On the site

    [source: step](../conceptattention_core/attention.py)    becomes the code of `step`,
    [source](../tests/comfyui/tiny/auraflow.py)              the whole file,
    [lines: AuraFlow](../bench/families.py)                  a diff that adds its lines of a name,
    [include](../CONTRIBUTING.md)                            that document, as it is,
    [include text](../web/docs/ConceptAttentionMasks.md)     that document without its title,

where such a link stands alone on its line, and other links that leave docs/ lead to copies in
files/. A name that the source does not have, or a file that is not there, ends the build.
"""

import ast
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
COPIES = "files"

SOURCE = re.compile(r"^\[source(?:: (?P<names>[\w., ]+))?\]\((?P<link>[^)]+)\)$", re.MULTILINE)
INCLUDE = re.compile(r"^\[include(?P<text> text)?\]\((?P<link>[^)]+\.md)\)$", re.MULTILINE)
LINES = re.compile(r"^\[lines: (?P<word>\w+)\]\((?P<link>[^)]+)\)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:|#)(?P<link>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", ".yml": "yaml"}


def expand(markdown: str, folder: Path) -> str:
    """The text of a document in `folder` with sources and other documents in their places."""

    def include(found: re.Match[str]) -> str:
        text = _read_from(folder / found["link"], folder)
        return text.partition("\n")[2].strip() if found["text"] else text

    markdown = INCLUDE.sub(include, markdown)
    markdown = LINES.sub(lambda found: _lines(folder / found["link"], found["word"]), markdown)
    return SOURCE.sub(lambda found: _source(folder / found["link"], found["names"]), markdown)


def _read_from(file: Path, folder: Path) -> str:
    """A document, its links as seen from `folder`."""

    def move(found: re.Match[str]) -> str:
        target = os.path.relpath((file.parent / found["link"]).resolve(), folder)
        return f"]({target.replace(os.sep, '/')}{found['anchor'] or ''})"

    return LINK.sub(move, file.read_text(encoding="utf-8")).strip()


def _source(file: Path, names: str | None) -> str:
    file = file.resolve()
    text = file.read_text(encoding="utf-8")
    if names:
        text = "\n\n\n".join(find_source(text, name.strip()) for name in names.split(","))
    title = file.relative_to(ROOT).as_posix()
    return f'````{LANGUAGES.get(file.suffix, "text")} title="{title}"\n{text.strip()}\n````'


def _lines(file: Path, word: str) -> str:
    """The lines with a word, as a diff that adds them between their neighbours."""
    file = file.resolve()
    lines = file.read_text(encoding="utf-8").splitlines()
    added = {i for i, line in enumerate(lines) if re.search(rf"\b{word}\b", line)}
    if not added:
        raise LookupError(f"no '{word}' in {file.name}")
    shown = sorted({at for i in added for at in (i - 1, i, i + 1) if 0 <= at < len(lines)})
    parts: list[str] = []
    for before, at in zip([-1, *shown], shown):
        if at > before + 1:
            parts.append("@@")
        parts.append(f"{'+' if at in added else ' '}{lines[at]}")
    title = file.relative_to(ROOT).as_posix()
    return "\n".join([f'````diff title="{title}"', *parts, "````"])


def find_source(text: str, name: str) -> str:
    """The code of a function, class or constant, with its decorators; methods as `Class.method`.

    Raises LookupError where there is none.
    """
    body: list[Any] = ast.parse(text).body
    found: Any = None
    for part in name.split("."):
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            raise LookupError(f"no '{name}' in the source")
        body = getattr(found, "body", [])
    first = min([found.lineno, *(one.lineno for one in getattr(found, "decorator_list", []))])
    return "\n".join(text.splitlines()[first - 1 : found.end_lineno])


def _names(node: Any) -> set[str]:
    targets = [*getattr(node, "targets", []), getattr(node, "target", None)]
    return {getattr(node, "name", "")} | {target.id for target in targets if hasattr(target, "id")}


def outside(markdown: str, folder: Path) -> dict[str, Path]:
    """The links of a document in `folder` that leave docs/, and the files they lead to."""
    found = {link["link"]: (folder / link["link"]).resolve() for link in LINK.finditer(markdown)}
    return {link: file for link, file in found.items() if not file.is_relative_to(DOCS)}


# --- MkDocs ---------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    copies = {
        file
        for page in files.documentation_pages()
        for file in outside(_read(page.abs_src_path), DOCS).values()
    }
    for file in sorted(copies):
        if not file.is_file():
            raise FileNotFoundError(f"docs/ links to {file.relative_to(ROOT)}, which is no file")
        if file.suffix == ".md":
            raise ValueError(
                f"docs/ links to {file.relative_to(ROOT)}: make a page that includes it"
            )
        name = f"{COPIES}/{file.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, content=file.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    markdown = expand(markdown, DOCS)
    left = outside(markdown, DOCS)

    def copy(found: re.Match[str]) -> str:
        file = left.get(found["link"])
        if file is None:
            return found[0]
        return f"]({COPIES}/{file.relative_to(ROOT).as_posix()})"

    return LINK.sub(copy, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings announce code by two colons; readers of the site see one."""
    return html.replace("::</p>", ":</p>")


def _read(file: str) -> str:
    return expand(Path(file).read_text(encoding="utf-8"), DOCS)

"""What README, CONTRIBUTING and the pages of the documentation show: blocks of code, commands, names in the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^([ ]*)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n][^`]*)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages, page by page."""
    return [block for page in PAGES for block in _blocks_of(page) if block.language in languages]


def spans() -> list[tuple[str, str]]:
    """Page and text of each piece of code within the text."""
    pages = ((page, BLOCK.sub("", page.read_text(encoding="utf-8"))) for page in PAGES)
    return [(_name(page), " ".join(code.split())) for page, text in pages for code in CODE.findall(text)]


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block as words, without what follows a #."""
    return [words for line in block.text.splitlines() if (words := shlex.split(line, comments=True))]


def cluster_file() -> str:
    """The first machine file of a cluster, which `test_cluster` runs."""
    return next(block.text for block in blocks("yaml") if block.text.startswith("engine: slurm"))


def _blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        yield Block(_name(page), text.count("\n", 0, found.start()) + 1, found[2], dedent(found[3]))


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()

"""Check the English of docstrings and comments: `python docs/prose.py [PATH ...]`, by default the three packages.

A concept gets its name; a clause that circles it ("what is asked of it") cannot be searched for. The phrases
below were the most frequent of that kind. Their number must be zero, and three rates must stay low.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGES = ("ptycho", "ptycho_backends", "ptycho_torch")

PHRASES = (
    "and what",
    "are told",
    "is told",
    "nobody knows",
    "says of",
    "says otherwise",
    "says so",
    "tells how",
    "tells what",
    "told by",
    "what becomes",
    "what each",
    "what every",
    "what is asked",
    "what is in",
    "what is wrong",
    "what resuming needs",
    "what training",
    "what was learned",
    "what was there",
)

# Words that replace a name, each group with its limit per 10,000 words.
RATES = (
    (("what",), 15.0),
    (("tell", "tells", "told", "say", "says", "said"), 6.0),
)

QUESTION = re.compile(r"(What|Whether|How|Who|Which|Where)\b")
# Per cent of the docstrings whose first line opens with a question word.
QUESTION_LIMIT = 2.0

Text = tuple[int, str]


@dataclass
class Prose:
    """Counts over all files read."""

    words: list[str] = field(default_factory=list)
    docstrings: int = 0
    questions: int = 0
    findings: list[str] = field(default_factory=list)
    """`path:line: text` of each offender."""


def docstrings(source: str) -> Iterator[Text]:
    """First line number and text of each docstring in `source`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def comments(source: str) -> Iterator[Text]:
    """First line number and text of each comment in `source`; adjacent whole-line comments are one text."""
    start, last, lines = 0, 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text, row = token.string.lstrip("# "), token.start[0]
        if token.line.lstrip() != token.line[token.start[1] :]:  # behind code
            yield row, text
            continue
        if row != last + 1:
            if lines:
                yield start, " ".join(lines)
            start, lines = row, []
        lines.append(text)
        last = row
    if lines:
        yield start, " ".join(lines)


def read(path: Path, prose: Prose) -> None:
    """Add the docstrings and comments of the Python file `path` to `prose`."""
    source = path.read_text(encoding="utf-8")
    for line, text in docstrings(source):
        prose.docstrings += 1
        if QUESTION.match(text):
            prose.questions += 1
            prose.findings.append(f"{path}:{line}: opens with a question word: {text.splitlines()[0]}")
    for line, text in [*docstrings(source), *comments(source)]:
        words = re.findall(r"[a-z']+", text.lower())
        prose.words += words
        sentence = f" {' '.join(words)} "
        prose.findings += [
            f'{path}:{line}: "{phrase}"' for phrase in PHRASES for _ in range(sentence.count(f" {phrase} "))
        ]


def failures(prose: Prose) -> list[str]:
    """One line for each limit that `prose` exceeds."""
    found = [line for line in prose.findings if "opens with" not in line]
    total = max(1, len(prose.words))
    for words, limit in RATES:
        rate = 1e4 * sum(word in words for word in prose.words) / total
        if rate >= limit:
            found.append(f"{'/'.join(words)}: {rate:.1f} per 10,000 words, limit {limit:g}")
    share = 100 * prose.questions / max(1, prose.docstrings)
    if share >= QUESTION_LIMIT:
        found += [line for line in prose.findings if "opens with" in line]
        found.append(f"question words open {share:.1f} % of the docstrings, limit {QUESTION_LIMIT:g} %")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="Python files or folders")
    root = Path(__file__).resolve().parents[1]
    paths = parser.parse_args().paths or [root / name for name in PACKAGES]
    prose = Prose()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            read(file, prose)
    found = failures(prose)
    for line in found:
        print(line)  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

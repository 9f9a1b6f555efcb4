"""Each message that gives advice has a test that follows it.

A test names the messages that it follows by parts of their texts: `@pytest.mark.follows('part')`,
or `advice('part', ...)` in a table of tests/advice. It provokes the message, does what the message
says, and checks that the promised result is there.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = 'ghmdet', 'tools'
FOR_DEVELOPERS = 'tools/dev/', 'tools/analysis_tools/benchmarks/'
OF_TORCH = 'Check the documentation'  # a text that is looked for
MARK = 'pytest.mark.follows'
NOT_SHOWN_IN_ERRORS = 'help', 'description'
VERBS = (
    'add ask call change check choose convert copy correct del delete drop expand fetch '
    'get give install keep leave let lower make move multiply name pass put raise read remove '
    'rename repair replace restore resume run save scale see set split start take train try turn '
    'use want write'
)
ADVICE = re.compile(
    # An imperative at the beginning of a sentence or clause
    rf'(?:^|[.:;,(] ?|\b(?:or|then|otherwise|instead) )[`"]?(?:{"|".join(VERBS.split())})\b'
    rf'|\}} (?-i:{"|".join(VERBS.title().split())})\b'
    # What is needed
    r'|\bmust\b|\bneeds?\b|(?:step|file|\)|\}) is missing|new keys are|is inherited by'
    # What helps
    r'|did you mean|e\.g\.|what helps|make room|do not start|pip |replaced here|another with'
    r'|(?:given|chosen) by|accepts this|uses it|change it|is for|together only'
    r'|(?:continues|sets|shows|skips) |lists? all|says why|: --cfg-options|later see|it may be'
    r'|--data-root DIR|only: tools/|in the environment',
    re.IGNORECASE,
)
"""What a text that gives advice contains."""


def text_of(node: ast.AST) -> str | None:
    """Return the text of a string, with {} for what is formatted into it; None if it is none."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return ''.join(text_of(part) or '{}' for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        texts = text_of(node.left), text_of(node.right)
        return None if texts == (None, None) else ''.join(text or '{}' for text in texts)
    return None


def texts_in(node: ast.AST) -> Iterator[str]:
    """Yield the strings in a tree, without docstrings, help texts, operands of `==` and `in`."""
    for child in ast.iter_child_nodes(node):
        is_docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        is_help = isinstance(child, ast.keyword) and child.arg in NOT_SHOWN_IN_ERRORS
        if is_docstring or is_help or isinstance(child, ast.Compare):
            continue
        if (text := text_of(child)) is None:
            yield from texts_in(child)
            continue
        yield text
        for part in ast.walk(child):
            if isinstance(part, ast.FormattedValue):
                yield from texts_in(part)


def gives_advice(text: str) -> bool:
    """Whether it is a message, no program or list of names, that says what to do."""
    is_sentence = len(text.split()) > 2 and text[:1] != '\n' and text.count(',') < 30
    return is_sentence and not text.startswith(OF_TORCH) and bool(ADVICE.search(text))


@cache
def texts_of_the_package() -> dict[str, str]:
    """Return all texts, each with its file."""
    found = {}
    for file in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob('*.py')):
        name = str(file.relative_to(ROOT))
        if not name.startswith(FOR_DEVELOPERS):
            found |= dict.fromkeys(texts_in(ast.parse(file.read_text())), name)
    return found


@cache
def messages() -> dict[str, str]:
    """Return the texts that give advice, each with its file."""
    return {text: file for text, file in texts_of_the_package().items() if gives_advice(text)}


@cache
def followed() -> dict[str, str]:
    """Return the parts of messages that tests name, each with the file of the test."""
    found = {}
    for file in sorted((ROOT / 'tests').rglob('*.py')):
        for node in ast.walk(ast.parse(file.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ''
            parts = node.args[:1] if name == 'advice' else node.args if name == MARK else []
            texts = filter(None, map(text_of, parts))
            found |= dict.fromkeys(texts, str(file.relative_to(ROOT)))
    return found


def test_each_message_that_gives_advice_is_followed():
    missing = [
        f'{file}: {text}'
        for text, file in messages().items()
        if not any(part in text for part in followed())
    ]
    assert not missing, (
        'messages whose advice no test follows; write one that provokes the message, does what it '
        f"says and checks the result, and mark it with @{MARK}('part of the message'):\n"
        + '\n'.join(missing)
    )


def test_each_part_is_of_one_message():
    wrong = []
    for part, file in followed().items():
        texts = [text for text in texts_of_the_package() if part in text]
        if part not in texts and (not texts or sum(map(gives_advice, texts)) > 1):
            wrong.append(f'{file}: {part!r} is in {len(texts)} messages: {texts}')
    assert not wrong, '\n'.join(wrong)

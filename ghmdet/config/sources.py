"""What the files of a config assign and read: the names in their text, found without running it."""

from __future__ import annotations

import ast
import os
import re
from typing import NamedTuple


class FileNames(NamedTuple):
    """Names in one file."""

    assigned: set[str]
    read: set[str]


def names_per_file(text: str) -> list[FileNames]:
    """Return the names of each file in `Config.text`, the base files first."""
    files: list[list[str]] = [[]]
    for line in text.splitlines():
        if os.path.isabs(line) and line.endswith(('.py', '.json', '.yml', '.yaml')):
            files.append([])  # mmengine puts the path of each file above its text
        else:
            files[-1].append(line)
    return [names_in('\n'.join(lines)) for lines in files]


def names_in(source: str) -> FileNames:
    """Return the names in the text of one file, also those read as `_base_.name`."""
    read = set(re.findall(r'_base_\.(\w+)', source))
    try:
        tree = ast.parse(source)
    except SyntaxError:  # not Python, e.g. a base in YAML
        return FileNames(set(), read)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read |= {node.id for node in names if isinstance(node.ctx, ast.Load)} - {'dict', 'len'}
    return FileNames({node.id for node in names if isinstance(node.ctx, ast.Store)}, read)

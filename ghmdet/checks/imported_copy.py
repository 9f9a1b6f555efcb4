"""Which copy of ghmdet runs: edits in another one have no effect, and that is hard to notice."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from mmengine.logging import print_log

import ghmdet

_PACKAGE = Path(ghmdet.__file__).resolve().parent


def log_imported_copy() -> None:
    """Log version and folder of the package; warn if the tool that was started has another beside.

    A tool of a source tree imports the installed package, which need not be that tree's.
    """
    print_log(f'ghmdet {ghmdet.__version__} from {_PACKAGE}', logger='current')
    script = Path(sys.argv[0]).resolve()
    trees = [folder.parent for folder in script.parents if folder.name == 'tools']
    other = next((tree / 'ghmdet' for tree in trees if _is_package(tree / 'ghmdet')), _PACKAGE)
    if other.resolve() != _PACKAGE:
        print_log(
            f'{script} stands beside {other}, but the package that runs is {_PACKAGE}: edits in '
            f'the former have no effect. To use them, run `pip install -e {other.parent}`.',
            logger='current',
            level=logging.WARNING,
        )


def _is_package(folder: Path) -> bool:
    return (folder / '__init__.py').is_file()

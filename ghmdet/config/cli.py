"""How a program of ghmdet ends when something is wrong: one message, the culprit named.

Needs no torch.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

_DEBUG = '--debug'
_INTERRUPTED = 130  # what a shell gives for SIGINT
# Of Python's own making, seldom with a text that says what happened.
_ACCIDENTS = (ArithmeticError, AssertionError, AttributeError, IndexError, NameError, SyntaxError)
_FROM_A_WORKER = re.compile(r'Caught \w+ in .*\.\nOriginal Traceback \(most recent call last\):\n')
_BUILT_BY_MMENGINE = re.compile(r'^(class `\w+` in \S+: )+')
_FROM_GLOO = re.compile(r'gloo/.*(closed|reset|Connection refused|Broken pipe)')
_CALLED_BY_MMENGINE = re.compile(r' in <[\w.]+ object at 0x[0-9a-f]+>$')


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`, which every program has."""
    parser.add_argument(
        _DEBUG, action='store_true', help='show the traceback of an error, not its message alone'
    )


def run(main: Callable[[], Any]) -> None:
    """Run a program and exit as it deserves.

    An exception ends it with exit code 1 and `error: <message>` as its last words, followed by
    where the traceback is: above with `--debug` and in every process of several, always in
    `error.log` beside the log of the run if that has begun. Ctrl-C ends it with 130. What argparse
    refuses ends it with 2. A process of several goes without delay, so that the others need not
    wait for it.
    """
    try:
        _run(main)
    except SystemExit as stop:
        if isinstance(stop.code, int):
            _exit_process_group(stop.code)
        raise
    _exit_process_group(0)


def _run(main: Callable[[], Any]) -> None:
    try:
        main()
    except KeyboardInterrupt:
        sys.stdout.flush()
        print('interrupted', file=sys.stderr)
        raise SystemExit(_INTERRUPTED) from None
    except Exception as error:
        _report(error)
        raise SystemExit(1) from None


def describe(error: BaseException) -> str:
    """Return the message of an exception for somebody who does not know the code.

    What torch and mmengine add around the message of a part is left out. The class is named where
    the message would not say enough without it.

    Example:
        >>> describe(ValueError('expected a positive number, got -1'))
        'expected a positive number, got -1'
        >>> describe(KeyError('img'))
        "KeyError: 'img'"
    """
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
        if ' ' not in text:
            text = repr(error.args[0])
    kind = type(error).__name__
    if _FROM_A_WORKER.match(text):
        kind, text = _last_of_traceback(text)
    if _FROM_GLOO.search(text):
        return f'another process of this run has ended; look there for the reason ({text})'
    text = _CALLED_BY_MMENGINE.sub('', _BUILT_BY_MMENGINE.sub('', text.strip()))
    known = getattr(builtins, kind, None)
    by_chance = isinstance(known, type) and issubclass(known, _ACCIDENTS)
    if by_chance or (known and len(text.split()) < 3):
        return f'{kind}: {text}' if text else kind
    return text


def _exit_process_group(code: int) -> None:
    """End this process if it belongs to a process group.

    That closes its connections, which tells the others of a failure at once, whatever still holds
    the group. And threads of gloo now and then abort an interpreter that shuts down step by step
    ("terminate called without an active exception", exit code -6 after a good run).
    """
    distributed: Any = sys.modules.get('torch.distributed')
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return
    # torchrun's to those that are slower to go, whose exit code it would change.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if code == 0:
        distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report(error: Exception) -> None:
    """Say on stderr what went wrong, after all else that was printed."""
    rank = os.environ.get('RANK')
    shown = _DEBUG in sys.argv or rank is not None
    details = ''.join(traceback.format_exception(error))
    file = _write(details, rank)
    sys.stdout.flush()
    who = '' if rank is None else f'rank {rank}: '
    kept = f'the traceback is in {file}' if file else None
    hints = [None if shown else f'{_DEBUG} shows where in the code', kept]
    lines = [details] if shown else []
    lines.append(f'error: {who}{describe(error)}')
    if any(hints):
        lines.append(f'({"; ".join(filter(None, hints))})')
    print('\n'.join(lines), file=sys.stderr)
    sys.stderr.flush()


def _write(details: str, rank: str | None) -> Path | None:
    """Append the traceback to a file beside the log of the run; None where no run has begun."""
    for log_file in _log_files():
        name = 'error.log' if rank is None else f'error_rank{rank}.log'
        file = Path(log_file).with_name(name)
        with suppress(OSError):  # a full disk, perhaps the error itself
            with file.open('a', encoding='utf-8', errors='backslashreplace') as stream:
                stream.write(f'{" ".join(sys.argv)}\n{details}\n')
            return file
    return None


def _log_files() -> Iterator[str]:
    for logger in list(MMLogger._instance_dict.values()):
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                yield handler.baseFilename


def _last_of_traceback(text: str) -> tuple[str, str]:
    """Class and message at the end of a traceback's text."""
    lines = text.rstrip().splitlines()
    last_frame = max(i for i, line in enumerate(lines) if line.startswith('  File "'))
    start = last_frame + 1
    while start < len(lines) - 1 and lines[start].startswith('    '):
        start += 1
    kind, _, message = '\n'.join(lines[start:]).partition(': ')
    return kind.rpartition('.')[2], message

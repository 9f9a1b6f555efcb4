"""How a program of ghmdet ends: exit code and error message. Needs no torch."""

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
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

exit_code = 0
"""What `run` exits with."""
_DEBUG = '--debug'
# Raised by Python itself, mostly with a text that does not explain the error.
_OF_PYTHON = (ArithmeticError, AssertionError, AttributeError, IndexError, NameError, SyntaxError)
# The last frame of the traceback that torch puts into the message, its code, class and message.
_FROM_A_WORKER = re.compile(
    r'Caught \w+ in .*\n  File "[^\n]*\n(?:    [^\n]*\n)*(?:\w+\.)*(\w+)(?:: )?(.*)', re.DOTALL
)
_BUILT_BY_MMENGINE = re.compile(r'^(class `\w+` in \S+: )+')
_FROM_GLOO = re.compile(r'gloo/.*(closed|reset|Connection refused|Broken pipe)')
_CALLED_BY_MMENGINE = re.compile(r' in <[\w.]+ object at 0x[0-9a-f]+>$')


class LazyModule:
    """A module imported when one of its names is first asked for; `--help` needs no torch."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--debug`, which every program has."""
    parser.add_argument(
        _DEBUG, action='store_true', help='show the traceback of an error, not its message alone'
    )


def user_path(text: str) -> Path:
    """Return the path of an argument, with the home folder in place of `~`."""
    return Path(os.path.expanduser(text))


def run(main: Callable[[], Any]) -> None:
    """Run a program and exit: with code 1 after an exception, 130 after Ctrl-C.

    Of an exception it prints `error: <message>`; the traceback is above it with `--debug` and in
    distributed runs, and in `error.log` beside the log of the run if that has begun.
    """
    global exit_code
    code = 0
    try:
        main()
    except KeyboardInterrupt:
        sys.stdout.flush()
        print('interrupted', file=sys.stderr)
        code = 130  # what a shell gives for SIGINT
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        code = stop.code
    except Exception as error:
        _report(error)
        code = 1
    exit_code = code
    _exit_process_group(code)
    if code:
        raise SystemExit(code)


def describe(error: BaseException) -> str:
    """Return the message of an exception, without what torch and mmengine add around it.

    Very short messages and those of Python itself get the name of the exception's class.
    """
    text = str(error)
    if isinstance(error, KeyError) and ' ' in text:  # str gives the repr of its key
        text = str(error.args[0])
    kind = type(error).__name__
    if from_worker := _FROM_A_WORKER.match(text):
        kind, text = from_worker.groups()
    if _FROM_GLOO.search(text):
        return f'another process of this run has ended; see its error message ({text})'
    text = _CALLED_BY_MMENGINE.sub('', _BUILT_BY_MMENGINE.sub('', text.strip()))
    known = getattr(builtins, kind, None)
    of_python = isinstance(known, type) and issubclass(known, _OF_PYTHON)
    if of_python or (known and len(text.split()) < 3):
        return f'{kind}: {text}' if text else kind
    return text


def _exit_process_group(code: int) -> None:
    """End this process at once if it belongs to a process group, so that the others notice.

    Also, threads of gloo sometimes abort an interpreter that shuts down (exit code -6).
    """
    distributed: Any = sys.modules.get('torch.distributed')
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return
    # From torchrun when another process has ended; it would change the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if code == 0:
        distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report(error: Exception) -> None:
    """Print the error on stderr, after all other output."""
    rank = os.environ.get('RANK')
    shown = _DEBUG in sys.argv or rank is not None
    details = ''.join(traceback.format_exception(error))
    file = _write(details, rank)
    sys.stdout.flush()
    hints = [] if shown else [f'{_DEBUG} shows where in the code']
    hints += [f'the traceback is in {file}'] if file else []
    lines = [details] if shown else []
    lines.append(f'error: {"" if rank is None else f"rank {rank}: "}{describe(error)}')
    lines += [f'({"; ".join(hints)})'] if hints else []
    print('\n'.join(lines), file=sys.stderr, flush=True)


def _write(details: str, rank: str | None) -> Path | None:
    """Append the traceback to a file beside the log of the run, if that has begun."""
    handlers = [each for logger in MMLogger._instance_dict.values() for each in logger.handlers]
    for log in (each for each in handlers if isinstance(each, logging.FileHandler)):
        name = 'error.log' if rank is None else f'error_rank{rank}.log'
        file = Path(log.baseFilename).with_name(name)
        with suppress(OSError):  # a full disk, perhaps the error itself
            with file.open('a', encoding='utf-8', errors='backslashreplace') as stream:
                stream.write(f'{" ".join(sys.argv)}\n{details}\n')
            return file
    return None

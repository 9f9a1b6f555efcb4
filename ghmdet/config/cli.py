"""How a program of ghmdet ends: exit code and error message. Needs the standard library only."""

from __future__ import annotations

import argparse
import atexit
import builtins
import errno
import io
import logging
import os
import re
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partialmethod
from importlib import import_module
from pathlib import Path
from typing import Any

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
    distributed runs, and in `error.log` beside the log of the run if that has begun. If nobody
    reads the output any more, as after `| head`, the program ends silently with code 141.

    Modules of the current folder, as those of `custom_imports`, are found after all others.
    """
    global exit_code
    code = 0
    if not sys.flags.safe_path and '' not in sys.path:
        sys.path.append('')
    _name_program()
    sys.stdout, sys.stderr = map(_watch, (sys.stdout, sys.stderr))
    try:
        _call(main)
    except KeyboardInterrupt:
        _flush()
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


def outlive_readers() -> None:
    """Let the program go on when nobody reads its output any more: for runs of hours."""
    _Output.ends_program = False


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


class _Output(io.FileIO):
    """stdout or stderr below its buffer; when nobody reads it any more, it becomes os.devnull."""

    ends_program = False  # when nobody reads it

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # A pipe gives EPIPE, a closed terminal EIO, which on a file is a fault of the disk.
            is_file = stat.S_ISREG(os.fstat(self.fileno()).st_mode)
            if is_file or error.errno not in (errno.EPIPE, errno.EIO):
                raise
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
        if _Output.ends_program:
            raise SystemExit(141)  # what a shell shows for SIGPIPE
        return len(data)


def _watch(stream: Any) -> Any:
    """Return the stream with `_Output` in it; itself if it is no file, pipe or terminal."""
    buffer = getattr(stream, 'buffer', None)
    raw = getattr(buffer, 'raw', buffer)
    if type(raw) is not io.FileIO:
        return stream
    stream.flush()
    output: Any = _Output(raw.fileno(), 'w', closefd=False)
    names = ('encoding', 'errors', 'line_buffering', 'write_through')
    settings: Any = {name: getattr(stream, name) for name in names}
    return io.TextIOWrapper(output if raw is buffer else io.BufferedWriter(output), **settings)


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed when Python started
        with suppress(OSError):
            stream.flush()


def _call(main: Callable[[], Any]) -> None:
    """Call `main`, and write all that it has printed, also if it exits with code 0."""
    _Output.ends_program = True
    try:
        try:
            main()
        except SystemExit as stop:
            if stop.code:
                raise
        print(end='', flush=True)
    finally:
        _Output.ends_program = False


def _name_program() -> None:
    """Let the usage begin as the program was started: `ghmdet train`, `python -m ghmdet.train`."""
    name = getattr(sys.modules.get('ghmdet_command'), 'command', '')
    spec = getattr(sys.modules['__main__'], '__spec__', None)
    module = getattr(spec, 'name', '').removesuffix('.__main__')
    if name or module.startswith('ghmdet.'):
        prog = f'ghmdet {name}' if name else f'python -m {module}'
        parser: Any = argparse.ArgumentParser
        parser.__init__ = partialmethod(parser.__init__, prog=prog)


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
    _flush()
    os._exit(code)


def _report(error: Exception) -> None:
    """Print the error on stderr, after all other output."""
    rank = os.environ.get('RANK')
    shown = _DEBUG in sys.argv or rank is not None
    details = ''.join(traceback.format_exception(error))
    file = _write(details, rank)
    _flush()
    hints = [] if shown else [f'{_DEBUG} shows where in the code']
    hints += [f'the traceback is in {file}'] if file else []
    lines = [details] if shown else []
    lines.append(f'error: {"" if rank is None else f"rank {rank}: "}{describe(error)}')
    lines += [f'({"; ".join(hints)})'] if hints else []
    print('\n'.join(lines), file=sys.stderr, flush=True)


def _write(details: str, rank: str | None) -> Path | None:
    """Append the traceback to a file beside the log of the run, if that has begun."""
    logging_of_mmengine: Any = sys.modules.get('mmengine.logging')
    loggers = logging_of_mmengine.MMLogger._instance_dict.values() if logging_of_mmengine else ()
    handlers = [each for logger in loggers for each in logger.handlers]
    for log in (each for each in handlers if isinstance(each, logging.FileHandler)):
        name = 'error.log' if rank is None else f'error_rank{rank}.log'
        file = Path(log.baseFilename).with_name(name)
        with suppress(OSError):  # a full disk, perhaps the error itself
            with file.open('a', encoding='utf-8', errors='backslashreplace') as stream:
                stream.write(f'{" ".join(sys.argv)}\n{details}\n')
            return file
    return None

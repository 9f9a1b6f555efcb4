# PYTHON_ARGCOMPLETE_OK
"""The command `ghmdet`: starts the programs of the package.

It stands beside the package, since to import that takes longer than the help may take.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import runpy
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import zip_longest

PROGRAMS = {
    'train': ('ghmdet.train', 'train a detector'),
    'test': ('ghmdet.test', 'evaluate a checkpoint'),
    'predict': ('ghmdet.predict', 'detect in images, videos'),
    'export': ('ghmdet.export', 'write ONNX or pt2'),
    'publish': ('model_converters/publish_model.py', 'checkpoint for others'),
    'convert': ('dataset_converters/to_coco.py', 'any export to COCO format'),
    'coco': ('dataset_converters/coco.py', 'split, merge, count COCO'),
    'shapes': ('dataset_converters/shapes.py', 'draw a demo dataset'),
    'check': ('check_dataset.py', 'find faults in a dataset'),
    'browse': ('analysis_tools/browse_dataset.py', 'what the pipeline gives'),
    'anchors': ('analysis_tools/anchor_report.py', 'anchors and boxes'),
    'config': ('misc/print_config.py', 'the config of a run'),
    'evaluate': ('analysis_tools/eval_metric.py', 'AP of saved detections'),
    'threshold': ('analysis_tools/threshold.py', 'best score thresholds'),
    'confusion': ('analysis_tools/confusion_matrix.py', 'confusion matrix'),
    'errors': ('analysis_tools/error_analysis.py', 'kinds of errors'),
    'results': ('analysis_tools/analyze_results.py', 'worst and best images'),
    'report': ('report.py', 'HTML page on a training'),
    'logs': ('analysis_tools/analyze_logs.py', 'curves, time per step'),
    'compare': ('compare.py', 'settings, several seeds'),
    'ghm': ('analysis_tools/ghm_report.py', 'what GHM does to the data'),
    'flops': ('analysis_tools/get_flops.py', 'count operations'),
    'env': ('ghmdet.env', 'what a bug report needs'),
}
"""Command -> module, or file of tools/; what it does."""
command = ''  # the one that runs, for the usage of its program


def main() -> int:
    """Run the command line; return the exit code, unless a program exits itself."""
    global command
    (package,) = find_spec('ghmdet').submodule_search_locations  # type: ignore[union-attr, misc]
    name = _complete(package) if '_ARGCOMPLETE' in os.environ else ''.join(sys.argv[1:2])
    if name in PROGRAMS:
        command = name
        del sys.argv[1:2]
        _run(PROGRAMS[name][0], package)
        return 0
    if name not in ('', '-h', '--help', '--version'):
        near = difflib.get_close_matches(name.lower(), PROGRAMS, n=1)
        question = f'; did you mean {near[0]}?' if near else ''
        print(f'error: no command {name!r}{question} (ghmdet --help lists all)', file=sys.stderr)
        return 2
    with open(os.path.join(package, 'version.py'), encoding='utf-8') as file:
        version = re.findall(r"__version__ = '(.+)'", file.read())[0]
    try:
        print(f'ghmdet {version}' if name == '--version' else _help(), flush=True)
    except BrokenPipeError:
        os._exit(141)  # what a shell shows for SIGPIPE
    return 0


def _help() -> str:
    """Return the usage and all commands, in two columns, on less than a screen."""
    entries = [f'{name:<10} {text:<28}' for name, (_, text) in PROGRAMS.items()]
    half = (len(entries) + 1) // 2
    rows = zip_longest(entries[:half], entries[half:], fillvalue='')
    usage = 'usage: ghmdet COMMAND [arguments], ghmdet COMMAND --help, ghmdet --version'
    return '\n'.join([usage, '', *('  ' + ''.join(row).rstrip() for row in rows)])


def _run(program: str, package: str) -> None:
    """Run a module, or a file of tools/, as Python does."""
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of the command
    if not program.endswith('.py'):
        runpy.run_module(program, run_name='__main__', alter_sys=True)
        return
    file = os.path.realpath(os.path.join(package, '.mim', 'tools', program))
    sys.path.insert(0, os.path.dirname(file))
    runpy.run_path(file, run_name='__main__')


def _complete(package: str) -> str:
    """Complete a command, or let its program complete its arguments as soon as it parses them."""
    argcomplete = import_module('argcomplete')
    start = int(os.environ['_ARGCOMPLETE'])  # words up to the command
    line, point = os.environ['COMP_LINE'], int(os.environ['COMP_POINT'])
    words = argcomplete.lexers.split_line(line, point)[3]
    original = argparse.ArgumentParser.parse_known_args

    def find_configs(prefix: str, **_: object) -> list[str]:
        files = os.listdir(os.path.join(package, 'configs'))
        shipped = [file[:-3] for file in files if file.endswith('.py')]
        return shipped + argcomplete.completers.FilesCompleter()(prefix)

    def parse(self: argparse.ArgumentParser, *_: object, **__: object) -> object:
        argparse.ArgumentParser.parse_known_args = original  # type: ignore[method-assign]
        for action in self._actions:
            if 'CONFIG' in str(action.metavar or action.dest).upper().split('|'):
                action.completer = find_configs  # type: ignore[attr-defined]
        return argcomplete.autocomplete(self, always_complete_options=False)  # exits

    argparse.ArgumentParser.parse_known_args = parse  # type: ignore[assignment, method-assign]
    if len(words) > start:
        os.environ['_ARGCOMPLETE'] = str(start + 1)
        return words[start]
    parser = argparse.ArgumentParser()
    parser.add_argument('command', choices=PROGRAMS)
    parser.add_argument('--version', action='store_true')
    return parser.parse_args().command

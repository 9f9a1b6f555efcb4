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

HELP = """\
usage: ghmdet COMMAND [arguments], ghmdet COMMAND --help, ghmdet --version

Models                                  Results
  train      train a detector             evaluate   metrics of a results file
  test       evaluate a checkpoint        threshold  best score thresholds
  predict    detect in images, videos     confusion  confusion matrix
  export     write ONNX or pt2            errors     kinds of errors, their AP
  publish    checkpoint for others        results    worst and best images
  flops      count operations             report     HTML file on a training
  ghm        what GHM does to the data    logs       curves, time per step
                                          compare    settings, several seeds
Data
  convert    any export to COCO format  Other
  coco       split, merge, count COCO     config     print the config of a run
  shapes     draw a demo dataset          env        what a bug report needs
  check      find faults in a dataset
  browse     draw what the pipeline does
  anchors    compare anchors with boxes"""
PROGRAMS = {name: f'ghmdet.{name}' for name in ('train', 'test', 'predict', 'export', 'env')} | {
    'publish': 'model_converters/publish_model.py',
    'flops': 'analysis_tools/get_flops.py',
    'ghm': 'analysis_tools/ghm_report.py',
    'convert': 'dataset_converters/to_coco.py',
    'coco': 'dataset_converters/coco.py',
    'shapes': 'dataset_converters/shapes.py',
    'check': 'check_dataset.py',
    'browse': 'analysis_tools/browse_dataset.py',
    'anchors': 'analysis_tools/anchor_report.py',
    'evaluate': 'analysis_tools/eval_metric.py',
    'threshold': 'analysis_tools/threshold.py',
    'confusion': 'analysis_tools/confusion_matrix.py',
    'errors': 'analysis_tools/error_analysis.py',
    'results': 'analysis_tools/analyze_results.py',
    'report': 'report.py',
    'logs': 'analysis_tools/analyze_logs.py',
    'compare': 'compare.py',
    'config': 'misc/print_config.py',
}
command = ''  # the one that runs, for the usage of its program


def main() -> int:
    """Run the command line; return the exit code, unless a program exits itself."""
    global command
    (package,) = find_spec('ghmdet').submodule_search_locations  # type: ignore[union-attr, misc]
    name = _complete(package) if '_ARGCOMPLETE' in os.environ else ''.join(sys.argv[1:2])
    if name in PROGRAMS:
        command = name
        del sys.argv[1:2]
        _run(PROGRAMS[name], package)
        return 0
    if name not in ('', '-h', '--help', '--version'):
        near = difflib.get_close_matches(name.lower(), PROGRAMS, n=1)
        question = f'; did you mean {near[0]}?' if near else ''
        print(f'error: no command {name!r}{question} (ghmdet --help lists all)', file=sys.stderr)
        return 2
    with open(os.path.join(package, 'version.py'), encoding='utf-8') as file:
        version = re.findall(r"__version__ = '(.+)'", file.read())[0]
    try:
        print(f'ghmdet {version}' if name == '--version' else HELP, flush=True)
    except BrokenPipeError:
        os._exit(141)  # what a shell shows for SIGPIPE
    return 0


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

# PYTHON_ARGCOMPLETE_OK
"""The command `ghmdet`: starts the programs of the package.

It stands beside the package, since importing that takes longer than the help should; until a
program runs, only the standard library is imported.
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
  train      train a detector             evaluate   metrics of a file of detections
  test       evaluate a checkpoint        threshold  best score threshold per class
  predict    detect in images, videos     confusion  which class is taken for which
  export     write ONNX or pt2            errors     kinds of errors, AP of each
  publish    checkpoint for others        results    draw worst and best images
  flops      count operations             report     one HTML file on a training
  ghm        what GHM does to the data    logs       curves and times of trainings
                                          compare    settings, over several seeds
Data
  convert    any export to COCO format  Other
  coco       split, merge, count COCO     config     print the config of a run
  shapes     draw a demo dataset          env        print what a bug report needs
  check      find faults in a dataset
  browse     draw what the pipeline does
  anchors    compare anchors with boxes"""
PROGRAMS = {
    'train': 'ghmdet.train',
    'test': 'ghmdet.test',
    'predict': 'ghmdet.predict',
    'export': 'ghmdet.export',
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
    'env': 'ghmdet.env',
}
command = ''
"""The command that runs, for the usage of its program."""


def main() -> int:
    """Run the command line; a program that ends by an exception or exit code does so here too."""
    global command
    (package,) = find_spec('ghmdet').submodule_search_locations  # type: ignore[union-attr, misc]
    name = _complete(package) if '_ARGCOMPLETE' in os.environ else ''.join(sys.argv[1:2])
    if name in PROGRAMS:
        command = name
        del sys.argv[1:2]
        _run(PROGRAMS[name], package)
        return 0
    if name in ('', '-h', '--help'):
        return _print(HELP)
    if name == '--version':
        with open(os.path.join(package, 'version.py'), encoding='utf-8') as file:
            return _print('ghmdet ' + re.findall(r"__version__ = '(.+)'", file.read())[0])
    near = difflib.get_close_matches(name.lower(), PROGRAMS, n=1)
    question = f'; did you mean {near[0]}?' if near else ''
    print(f'error: ghmdet has no command {name!r}{question}', file=sys.stderr)
    print('(ghmdet --help lists all)', file=sys.stderr)
    return 2


def _run(program: str, package: str) -> None:
    """Run a module as `python -m` does, or a file of tools/ as Python does.

    Modules of the current folder, of `custom_imports` say, are found after all others.
    """
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder of the command
        sys.path.append('')
    if not program.endswith('.py'):
        runpy.run_module(program, run_name='__main__', alter_sys=True)
        return
    file = os.path.realpath(os.path.join(package, '.mim', 'tools', program))
    sys.path.insert(0, os.path.dirname(file))
    runpy.run_path(file, run_name='__main__')


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os._exit(141)  # what a shell shows for SIGPIPE
    return 0


def _complete(package: str) -> str:
    """Complete commands here; return a command whose program shall complete the rest."""
    argcomplete = import_module('argcomplete')
    start = int(os.environ['_ARGCOMPLETE'])  # words up to the command
    line, point = os.environ['COMP_LINE'], int(os.environ['COMP_POINT'])
    words = argcomplete.lexers.split_line(line, point)[3]
    if len(words) <= start:
        parser = argparse.ArgumentParser()
        parser.add_argument('command', choices=PROGRAMS)
        parser.add_argument('--version', action='store_true')
        argcomplete.autocomplete(parser, always_complete_options=False)
    os.environ['_ARGCOMPLETE'] = str(start + 1)
    files = argcomplete.completers.FilesCompleter()
    original = argparse.ArgumentParser.parse_known_args

    def find_configs(prefix: str, **_: object) -> list[str]:
        shipped = os.listdir(os.path.join(package, 'configs'))
        return [name[:-3] for name in shipped if name.endswith('.py')] + files(prefix)

    def parse(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> object:
        argparse.ArgumentParser.parse_known_args = original  # type: ignore[method-assign]
        for action in self._actions:
            if 'CONFIG' in (action.metavar or action.dest).upper().split('|'):
                action.completer = find_configs  # type: ignore[attr-defined]
        argcomplete.autocomplete(self, always_complete_options=False)
        return original(self, *args, **kwargs)  # type: ignore[call-overload]

    argparse.ArgumentParser.parse_known_args = parse  # type: ignore[assignment, method-assign]
    return words[start]

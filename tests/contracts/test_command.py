"""The command `ghmdet`: its own help, messages and completion, and how it starts programs.

`test_help.py` calls the help of each program in each way in which it is started.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ghmdet import __version__
from ghmdet_command import PROGRAMS
from tests.contracts.test_help import PROGRAMS as ALL_PROGRAMS

ROOT = Path(__file__).parents[2]
WITHOUT = {
    'train.py': 'ghmdet.train',
    'test.py': 'ghmdet.test',
    'predict.py': 'ghmdet.predict',
    'export.py': 'ghmdet.export',
    'pascal_voc.py': 'convert --from voc',
    'benchmark.py': 'for those who work on ghmdet, as all that follow',
    **dict.fromkeys(
        ('check_install.py', 'count_files.py', 'crash_test.py', 'gpu_checks.py', 'soak.py')
    ),
    **dict.fromkeys(('make_page.py', 'shuffle_labels.py')),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the command as pip writes it."""
    folder = tmp_path_factory.mktemp('bin')
    main = "import sys\nfrom ghmdet_command import main\nif __name__ == '__main__':\n"
    (folder / 'ghmdet').write_text(f'#!{sys.executable}\n{main}    sys.exit(main())\n')
    (folder / 'ghmdet').chmod(0o755)
    return folder


@pytest.fixture
def ghmdet(folder, tmp_path):
    """Call the command in an empty folder; return exit code, stdout and stderr."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}

    def call(*words, **options):
        options = dict(stdout=-1, stderr=-1, cwd=tmp_path, env=env, timeout=120) | options
        done = subprocess.run([folder / 'ghmdet', *words], text=True, **options)
        return done.returncode, done.stdout, done.stderr

    return call


def test_the_help_fits_on_a_screen_and_lists_all(ghmdet):
    code, text, error = ghmdet('--help')
    assert (code, error) == (0, '')
    assert ghmdet('-h') == ghmdet() == (0, text, '')
    lines = text.splitlines()
    assert (len(lines) <= 22, max(map(len, lines)) < 80) == (True, True)
    columns = [line[2:41].strip() for line in lines[2:]] + [line[41:] for line in lines[2:]]
    entries = dict(re.split(' {2,}', column, maxsplit=1) for column in columns if column)
    assert entries == {name: what for name, (_, what) in PROGRAMS.items()}


def test_help_and_version_import_the_standard_library_only(ghmdet):
    assert ghmdet('--version') == (0, f'ghmdet {__version__}\n', '')
    script = (
        'import sys, ghmdet_command; ghmdet_command.main();'
        'print(*{name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names)'
    )
    command = [sys.executable, '-S', '-c', script, '--version']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert set(done.stdout.split()) == {'ghmdet', __version__, '__main__', 'ghmdet_command'}


def test_each_program_has_a_command():
    called = [
        str(ROOT / 'tools' / program) if program.endswith('.py') else program
        for program, _ in PROGRAMS.values()
    ]
    programs = {words[-1]: name for name, words in ALL_PROGRAMS.items() if words[0]}
    assert programs.keys() - called == {path for path, name in programs.items() if name in WITHOUT}
    assert set(WITHOUT) <= set(programs.values())
    assert len(called) == len(PROGRAMS)


def test_a_wrong_command(ghmdet):
    advice = '(ghmdet --help lists all)'
    assert ghmdet('trian') == (2, '', f"error: no command 'trian'; did you mean train? {advice}\n")
    assert ghmdet('--verbose') == (2, '', f"error: no command '--verbose' {advice}\n")


def test_the_advice_on_a_wrong_command(ghmdet):
    near = re.search(r'did you mean (\w+)\?', ghmdet('conver')[2])[1]
    assert ghmdet(near, '--help')[1].startswith('usage: ghmdet convert ')


def test_exit_codes_and_messages_are_those_of_the_program(ghmdet, tmp_path):
    code, out, error = ghmdet('config', 'no_such')
    assert (code, out) == (1, '')
    assert error.startswith("error: no config 'no_such' in ghmdet")
    code, out, error = ghmdet('config')
    assert (code, out) == (2, '')
    assert error.endswith('ghmdet config: error: the following arguments are required: config\n')
    # Modules of the folder are found, but not in place of others.
    for name in ('own_parts', 'argparse', 'shapes'):
        (tmp_path / f'{name}.py').write_text('print("read")')
    (tmp_path / 'own.py').write_text("custom_imports = dict(imports='own_parts')\nlr = 1\n")
    assert ghmdet('config', 'own.py') == (
        *(0, "custom_imports = dict(imports='own_parts')\nlr = 1\n\n"),
        'read\n',  # print_config.py prints nothing else on stdout
    )


@pytest.mark.skipif(sys.platform == 'win32', reason='its pipes have no EPIPE')
@pytest.mark.parametrize('words', ['', '--version', 'env', 'config retinanet_r50_fpn_1x_coco'])
def test_output_that_nobody_reads(ghmdet, words):
    reader, writer = os.pipe()
    os.close(reader)
    assert ghmdet(*words.split(), stdout=writer) == (141, None, '')
    os.close(writer)


def test_completion(folder, tmp_path):
    """By bash, with the function that argcomplete gives it."""
    pytest.importorskip('argcomplete')
    (tmp_path / 'retinanet_mine.py').touch()
    expected = {
        'ghmdet tr': 'train',
        'ghmdet co': 'coco compare config confusion convert',
        'ghmdet train --am': '--amp',
        'ghmdet train --launcher s': 'slurm',
        'ghmdet train retinanet_r50': 'retinanet_r50_fpn_1x_coco',
        'ghmdet compare retinanet_m': 'retinanet_mine.py',
        'ghmdet export retinanet_m': 'retinanet_mine.py',
        'ghmdet coco s': 'split stats subset',
        'ghmdet report retin': 'retinanet_mine.py',
        'ghmdet nothing r': '',
    }
    lines = ['eval "$("$0" -m argcomplete.scripts.register_python_argcomplete ghmdet)"']
    for line in expected:
        words = line.split()
        lines += [
            f'COMP_LINE="{line}" COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9 COMPREPLY=()',
            f'_python_argcomplete ghmdet {words[-1]} {words[-2]}; echo ${{COMPREPLY[@]}}',
        ]
    env = {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}'}
    argcomplete = Path(find_spec('argcomplete').origin).parents[1]
    env['PYTHONPATH'] = f'{ROOT}:{argcomplete}'
    command = ['bash', '-c', '\n'.join(lines), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    found = dict(zip(expected, done.stdout.splitlines(), strict=True))
    assert {line: ' '.join(sorted(text.split())) for line, text in found.items()} == expected


def test_the_docs_list_each_command():
    page = (ROOT / 'docs/get_started.md').read_text()
    rows = dict(re.findall(r'^\| `(\w+)` \| `([^`]+)` \|', page, re.MULTILINE))
    assert rows.keys() == PROGRAMS.keys()
    for name, (program, _) in PROGRAMS.items():
        same = [f'tools/{program}', f'tools/{name}.py', f'python -m {program}']
        assert rows[name] in same
        assert rows[name][:2] != 'to' or (ROOT / rows[name]).is_file()

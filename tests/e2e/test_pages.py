"""The code blocks of the pages: each is run here or by another test, or says why it is not run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ENV, ROOT, commands, run, write_config

BLOCK = re.compile(
    r'^## ([^\n]+)$|(?:<!-- not run: ([^\n]+) -->\n)?^```(\S*)\n(.*?)^```', re.M | re.S
)
OUTPUT = ('text', 'json', '{toctree}', '{eval-rst}')
PAGES = ['README.md', 'CONTRIBUTING.md', 'configs/README.md']
PAGES += [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob('examples/*/README.md'))]
PAGES += [str(p.relative_to(ROOT)) for p in sorted(ROOT.glob('docs/**/*.md'))]
CONFIGS, FOUND = 'tests/contracts/test_docs.py', 'tests/tools/analysis_tools/test_{}.py'
# (page, heading) of blocks that other tests read from the page and run; None is every heading.
ELSEWHERE = {
    ('README.md', 'Infer'): 'tests/inference/test_detector.py',
    ('README.md', 'Your own data'): CONFIGS,
    ('docs/get_started.md', 'The demo'): 'tests/e2e/test_pages.py',
    ('docs/use/interop.md', None): 'tests/inference/test_interop.py',
    ('examples/photos_to_onnx/README.md', None): 'tests/e2e/test_photos_to_onnx.py',
    ('docs/judge/analysis.md', 'Which class is taken for which'): FOUND.format('confusion_matrix'),
    ('docs/judge/analysis.md', 'What kinds of errors'): FOUND.format('error_analysis'),
    ('docs/judge/analysis.md', 'Which images'): FOUND.format('analyze_results'),
    ('docs/judge/analysis.md', 'Does a setting help'): 'tests/e2e/test_compare.py',
    ('docs/train/configs.md', None): CONFIGS,
    ('docs/train/your_data.md', None): 'tests/e2e/test_your_data.py',
    ('docs/use/checkpoints.md', 'Names'): 'tests/checkpoint/test_key_maps.py',
    ('docs/use/deploy.md', None): 'tests/export/test_deploy.py',
    ('docs/use/predict.md', 'In Python'): 'tests/inference/test_detector.py',
    ('docs/use/predict.md', None): 'tests/e2e/test_predict.py',
}
# What the blocks that are run here must leave behind; `*` stands for a time stamp.
HERE = {
    ('README.md', 'Test'): ['work_dirs/tiny/*/*.json'],
    ('docs/judge/test_results.md', ''): ['found.json', 'work_dirs/tiny/results.bbox.json'],
    ('docs/judge/test_results.md', 'Images without annotations'): [
        'work_dirs/tiny/results.bbox.json'
    ],
    ('docs/judge/analysis.md', 'The figures of a test'): ['figures.json'],
    ('docs/judge/analysis.md', 'Where to cut'): ['thresholds.json', 'curves/curves.csv'],
    ('docs/judge/analysis.md', 'How the training goes'): ['curves.png'],
    ('docs/judge/analysis.md', 'What the pipeline does'): ['pictures/*.jpg'],
    ('docs/judge/analysis.md', 'How large the network is'): ['flops.json'],
    ('docs/judge/analysis.md', 'What GHM does to your data'): ['trained/ghm_report/*.png'],
    ('docs/judge/analysis.md', 'One file on a run'): ['report.html', 'work_dirs/tiny/report.html'],
    ('docs/train/resume.md', ''): ['work_dirs/tiny/epoch_2.pth'],
    ('docs/use/checkpoints.md', 'Other classes'): ['work_dirs/tiny/epoch_2.pth'],
}
# What stands for what a reader has; `--classes cat` is of no drawn shape.
READERS = {
    'CONFIG': 'tiny.py',
    'CHECKPOINT': 'trained/epoch_2.pth',
    'CHECKPOINT2': 'trained/epoch_1.pth',
    'WORK_DIR': 'work_dirs/tiny',
    'cat': 'circle',
    '500': '3',
    'load_from=coco.pth': 'load_from=trained/epoch_2.pth',
}


def blocks(page):
    """(heading, why it is not run, language, code) of each block of code."""
    heading, found = '', []
    for title, reason, language, code in BLOCK.findall((ROOT / page).read_text()):
        heading = title or heading
        if code and language not in OUTPUT:
            found.append((heading.partition(': `')[0], reason, language, code))
    return found


def find_test(page, heading):
    return ELSEWHERE.get((page, heading)) or ELSEWHERE.get((page, None))


@pytest.mark.parametrize('page', PAGES)
def test_each_block_is_run_or_says_why_not(page):
    for heading, reason, _, code in blocks(page):
        ran = [find_test(page, heading), HERE.get((page, heading)), reason]
        assert sum(map(bool, ran)) == 1, (heading, code)


@pytest.mark.parametrize('key', [*ELSEWHERE, *HERE], ids=lambda key: f'{key[0]}-{key[1]}')
def test_the_tables_name_blocks_that_are_there(key):
    page, heading = key
    assert any(heading in (None, each) for each, *_ in blocks(page))
    if test := ELSEWHERE.get(key):
        assert page in (ROOT / test).read_text()


@pytest.fixture
def folder(trained, shapes, tmp_path, monkeypatch):
    """What the commands of the pages begin with."""
    _, work_dir = trained
    write_config(tmp_path / 'tiny.py', shapes)
    for name in ('trained', 'work_dirs/a', 'work_dirs/b'):
        shutil.copytree(work_dir, tmp_path / name)
    (tmp_path / 'work_dirs/tiny').mkdir()
    annotations = json.loads((shapes / 'annotations/val.json').read_text())
    (tmp_path / 'annotations.json').write_text(json.dumps(annotations))
    shutil.copytree(shapes / 'val', tmp_path / 'photos')
    images = dict(images=annotations['images'])
    (tmp_path / 'photos/images.json').write_text(json.dumps(images))
    run('test.py', tmp_path / 'tiny.py', 'trained/epoch_2.pth', '--out', 'found.json')
    shutil.copytree(work_dir, tmp_path / 'work_dirs/tiny', dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('key', HERE, ids=lambda key: f'{key[0]}-{key[1]}')
def test_the_commands_of_a_page(key, folder, server):
    page, heading = key
    before = {file: file.stat().st_mtime_ns for file in folder.rglob('*') if file.is_file()}
    (code,) = (code for each, _, _, code in blocks(page) if each == heading)
    for python, tool, *words in commands(code):
        assert (python, tool.split('/')[0]) == ('python', 'tools')
        words = [READERS.get(word, word) for word in words]
        words = [word.replace('/data/new/', f'{folder}/photos/') for word in words]
        done = server(tool.removeprefix('tools/'), words, folder)
        assert done['code'] == 0, done['stdout'][-2000:] + done['stderr'][-3000:]
    for pattern in HERE[key]:
        files = [*folder.glob(pattern)]
        assert any(file.stat().st_mtime_ns > before.get(file, 0) for file in files), pattern


@pytest.mark.long
def test_the_demo(tmp_path):
    ((_, _, _, code),) = blocks('docs/get_started.md')[1:]
    for program, *words in commands(code):
        assert program == 'ghmdet'
        words = [word.replace('epoch_15', 'epoch_1') for word in words]
        if words[0] == 'train':
            words += ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
        command = [Path(sys.executable).with_name(program), *words]
        streams = dict(capture_output=True, text=True, cwd=tmp_path, env=ENV, timeout=250)
        done = subprocess.run(command, **streams)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len([*(tmp_path / 'data/shapes/train').iterdir()]) == 300
    assert (tmp_path / 'work_dirs/demo/report.html').is_file()
    assert len([*tmp_path.glob('work_dirs/retinanet_ghm_r18_fpn_shapes/*/pictures/*')]) == 60
    assert len(json.loads((tmp_path / 'found/results.json').read_text())) > 0

"""docs/use/deploy.md: its commands and options, and the example without torch and ghmdet."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ghmdet import Detector
from ghmdet.export import __main__ as program
from tests.exported_model import export_model

ROOT = Path(__file__).parents[2]
DOCS, EXAMPLE = ROOT / 'docs/use/deploy.md', ROOT / 'examples/deploy/detect.py'


def commands(heading):
    text = DOCS.read_text().split(f'\n## {heading}\n')[1].split('\n## ')[0]
    blocks = re.findall('```\n(.*?)```', text, re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]


@pytest.fixture
def photo(exported, tmp_path):
    """A JPEG of odd size, turned by its EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(exported / 'data/val/00003.jpg') as image:
        image.resize((301, 217)).save(tmp_path / 'photo.jpg', exif=exif)
    return tmp_path / 'photo.jpg'


def check_output(text, found):
    """Compare lines of class, score and box with `Detections`."""
    rows = [line.split() for line in text.splitlines()]
    assert [row[0] for row in rows] == found.names
    numbers = np.array([row[1:] for row in rows], np.float64)
    np.testing.assert_allclose(numbers[:, 0], found.scores, atol=1e-6)
    np.testing.assert_allclose(numbers[:, 1:], found.boxes, atol=1e-3)
    assert len(rows) >= 10


def run_example(monkeypatch, capsys, folder):
    ((python, example, *words),) = commands('Use')
    assert (python, example) == ('python', 'examples/deploy/detect.py')
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', [example, *words])
    runpy.run_path(str(EXAMPLE), run_name='__main__')
    return capsys.readouterr().out


def test_the_example_gives_the_same_boxes(exported, photo, tmp_path, monkeypatch, capsys):
    shutil.copy(exported / 'model.onnx', tmp_path)
    out = run_example(monkeypatch, capsys, tmp_path)
    assert Detector('model.onnx')(photo).shape == (301, 217)
    check_output(out, Detector('model.onnx')(photo))
    check_output(out, Detector(exported / 'config.py', exported / 'model.pth')(photo))
    assert len(EXAMPLE.read_text().splitlines()) <= 40


@pytest.mark.long
@pytest.mark.parametrize('keep_ratio', [False, None])
def test_the_example_with_other_pipelines(
    exported, photo, tmp_path, monkeypatch, capsys, keep_ratio
):
    """A fixed size; none, in a file of static size."""
    shutil.copy(exported / 'model.pth', tmp_path)
    text = (exported / 'config.py').read_text()
    assert text.count('keep_ratio=True, scale=(') > 0
    new = f'keep_ratio={keep_ratio}, scale=('
    if keep_ratio is None:
        text = re.sub(
            r'dict\(keep_ratio=True, scale=\(\s*\d+,\s*\d+,?\s*\), type=.Resize.\),', '', text
        )
    (tmp_path / 'config.py').write_text(text.replace('keep_ratio=True, scale=(', new))
    export_model(tmp_path, 'model.onnx', static_hw=None if keep_ratio is False else (310, 230))
    out = run_example(monkeypatch, capsys, tmp_path)
    check_output(out, Detector('model.onnx')(photo))


@pytest.mark.long
def test_the_example_in_an_environment_of_its_own(exported, photo, tmp_path):
    """Skips where packages cannot be installed."""
    packages = re.search(r'`pip install (onnxruntime numpy opencv[\w-]+)`', DOCS.read_text())[1]
    python = tmp_path / 'env' / ('Scripts' if sys.platform == 'win32' else 'bin') / 'python'
    venv.create(tmp_path / 'env', with_pip=True)
    command = [python, '-m', 'pip', 'install', '-q', *packages.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    if done.returncode:
        pytest.skip(f'pip cannot install: {done.stderr[-200:]}')
    command = [python, '-I', EXAMPLE, exported / 'model.onnx', photo]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    check_output(done.stdout, Detector(exported / 'model.onnx')(photo))
    script = 'import importlib.util as u; print([n for n in ("torch", "ghmdet") if u.find_spec(n)])'
    done = subprocess.run([python, '-I', '-c', script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == '[]'


def test_the_commands_are_read(monkeypatch, exported):
    found = []
    for python, tool, *words in commands('Export'):
        assert (python, tool) == ('python', 'tools/export.py')
        names = dict(CONFIG=str(exported / 'config.py'), CHECKPOINT=str(exported / 'model.pth'))
        monkeypatch.setattr(sys, 'argv', [tool, *(names.get(word, word) for word in words)])
        args = program.parse_args()
        found.append((args.format, args.int8, args.check))
    assert found == [('onnx', None, []), ('onnx', '200', []), ('pt2', None, ['photos'])]


def test_the_options_are_those_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['export.py', '--help'])
    with pytest.raises(SystemExit):
        program.parse_args()
    options = set(re.findall(r'--[\w-]+', capsys.readouterr().out))
    tables = [line for line in DOCS.read_text().splitlines() if line[:4] == '| `-']
    named = {option for line in tables for option in re.findall(r'--[\w-]+', line.split(' | ')[0])}
    assert named == options - {'--help'}


def test_the_metadata_are_those_of_the_docs(exported):
    texts = pytest.importorskip('onnx').load(exported / 'model.onnx').metadata_props
    (text,) = re.findall(r'`ghmdet\.json`\): (.*?)\n\n', DOCS.read_text(), re.DOTALL)
    assert {each.key for each in texts} == set(re.findall(r'`(\w+)`', text)) - {'Resize'}

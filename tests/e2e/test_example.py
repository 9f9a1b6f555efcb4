"""The project in `examples/` passes its own tests, as its users would run them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / 'examples' / 'cellcount'


def test_its_own_tests_pass_outside_of_the_repository(tmp_path):
    path = os.pathsep.join(filter(None, [str(EXAMPLE), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHONPATH': path}
    command = [sys.executable, '-m', 'pytest', EXAMPLE, '-q', '-p', 'no:cacheprovider']
    done = subprocess.run(
        [*command, f'--basetemp={tmp_path / "base"}'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert '5 passed' in done.stdout


def test_it_is_no_part_of_ghmdet():
    settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']
    assert settings['setuptools']['packages']['find']['include'] == ['ghmdet*']
    assert 'examples' not in settings['pytest']['ini_options']['testpaths']
    requirements = tomllib.loads((EXAMPLE / 'pyproject.toml').read_text())['project']
    assert requirements['dependencies'] == ['ghmdet']


def test_its_readme_names_files_that_are_there():
    text = (EXAMPLE / 'README.md').read_text()
    links = [part.split(')')[0] for part in text.split('](')[1:]]
    assert len(links) == 5
    assert [link for link in links if not (EXAMPLE / link).exists()] == []

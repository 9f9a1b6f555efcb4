"""What visitors of the repository look for: the site, how to cite, workflow, issue form."""

import re
import subprocess
import sys
import tomllib
from html import unescape
from pathlib import Path

import pytest
import yaml

from ghmdet.version import __version__

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / '.github'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Built as by `make docs`."""
    pytest.importorskip('furo', reason="pip install '.[docs]'")
    out = tmp_path_factory.mktemp('site')
    (line,) = re.findall(r'-m sphinx (.+) docs build/docs', (ROOT / 'Makefile').read_text())
    assert '--fail-on-warning' in line
    command = [sys.executable, '-m', 'sphinx', *line.split(), '-d', out / 'trees', 'docs', out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, '')
    return out


def test_the_site_has_no_dead_link(site):
    """Sphinx does not look at anchors of the pages that it writes itself, nor at downloads."""
    pages = {file: file.read_text() for file in site.rglob('*.html')}
    names = {file: set(re.findall(r'id="([^"]+)"', text)) for file, text in pages.items()}
    count = 0
    for file, text in pages.items():
        for link in map(unescape, re.findall(r'(?:href|src)="([^"]+)"', text)):
            path, _, anchor = link.partition('#')
            if ':' in link or path.startswith('_static') or '/_static/' in path:
                continue
            target = (file.parent / path).resolve() if path else file
            assert target.is_file(), (file, link)
            assert not anchor or target not in names or anchor in names[target], (file, link)
            count += 1
    assert count > 1000


def test_the_index_leads_to_every_page(site):
    index = (ROOT / 'docs/index.md').read_text()
    table = index[: index.index('```{toctree}')]
    linked = {link.partition('#')[0] for link in re.findall(r'\]\((\w[^)]+\.md[^)]*)\)', table)}
    pages = {str(page.relative_to(ROOT / 'docs')) for page in ROOT.glob('docs/**/*.md')}
    assert linked == pages - {'index.md'}
    assert all((site / page).with_suffix('.html').is_file() for page in linked)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('ghmdet.Detector', 'name of a shipped config, a config file'),
        ('ghmdet.losses.GHMC', 'g = |sigmoid(pred) - target|'),
        ('ghmdet.boxes.MaxIoUAssigner.assign', 'priors'),
        ('ghmdet.evaluation.CocoMetric', 'box_rule'),
    ],
)
def test_the_api_page_has_docstrings(site, name, text):
    page = unescape(re.sub('<[^>]+>', '', (site / 'api.html').read_text().split(f'id="{name}"')[1]))
    assert text in page[:4000]


def test_citation():
    data = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= data.keys()
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert (data['title'], data['license']) == (project['name'], project['license'])
    paper = data['preferred-citation']
    names = [author['family-names'] for author in paper['authors']]
    assert names == ['Li', 'Liu', 'Wang']
    assert (paper['year'], paper['end'] - paper['start'] + 1) == (2019, 8)
    assert __version__ in (ROOT / 'CHANGELOG.md').read_text()


def test_the_workflow_calls_what_is_there():
    (job,) = yaml.safe_load((GITHUB / 'workflows/test.yml').read_text())['jobs'].values()
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert f'>={job["strategy"]["matrix"]["python"][0]}' == project['requires-python']
    calls = [step['run'].split() for step in job['steps'] if 'run' in step]
    assert ['make', 'test'] in calls
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert {target for _, target in calls} <= {*targets}


def test_the_issue_form_asks_for_the_environment():
    form = yaml.safe_load((GITHUB / 'ISSUE_TEMPLATE/bug.yml').read_text())
    first = form['body'][0]
    assert '`ghmdet env`' in first['attributes']['label']
    assert first['validations'] == dict(required=True)

"""Words of this project's own that were replaced by standard ones stay away."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ('ghmdet', 'tools', 'docs', 'configs', 'README.md', 'CONTRIBUTING.md')
SUFFIXES = {'.py', '.md', '.sh', '.yml', '.txt'}

# Regular expressions; upper and lower case are the same.
RETIRED = (
    r'upright',
    r'hallway',
    r'stand-?ins?\b',
    r'culprit',
    r'\bcures?\b',
    r'\bcured\b',
    r'cure_',
    r'misshapen',
    r'unfilled',
    r'alarming',
    r'\bvain\b',
    r'misfits',
    r'verdict',
    r'meeting point',
    r'undisturbed',
    r'gradient length',
    r'starts? anew',
    r'passed over',
    r'is read by nothing',
    r'\badopt\(',
    r'DoorCheck',
    r'Elastic[A-Z]\w+',
    r'settle_classes',
    r'plain_datasets',
    r'fold_batch_norms',
    r'read_sound',
    r'_leave_the_others',
)


def list_files():
    for place in (ROOT / name for name in PLACES):
        files = [place] if place.is_file() else sorted(place.rglob('*'))
        for file in files:
            if file.suffix in SUFFIXES and '.mim' not in file.parts:
                yield file


def find_words(text):
    pattern = re.compile('|'.join(RETIRED), re.IGNORECASE)
    for number, line in enumerate(text.splitlines(), 1):
        for match in pattern.finditer(line):
            yield number, match[0]


def test_retired_words_are_gone():
    found = [
        f'{file.relative_to(ROOT)}:{number}: {word}'
        for file in list_files()
        for number, word in find_words(file.read_text())
    ]
    assert not found, f'{len(found)} retired words:\n' + '\n'.join(found)


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('an upright image\na Culprit', [(1, 'upright'), (2, 'Culprit')]),
        ('stand-ins and secured', [(1, 'stand-ins')]),
        ('ElasticBatchSampler, elastic', [(1, 'ElasticBatchSampler')]),
        ('vainly', []),
    ],
)
def test_they_are_found(text, found):
    assert list(find_words(text)) == found

from __future__ import annotations

from pathlib import Path

import pytest
from export_records import Export, find_split, list_files

from tests.tools.dataset_converters.formats.test_voc import write


@pytest.mark.parametrize(
    ('path', 'split'),
    [
        ('train', 'train'),
        ('valid/images', 'val'),
        ('annotations/instances_val2017', 'val'),
        ('Validation', 'val'),
        ('TEST/a', 'test'),
        ('images_train', 'train'),
        ('train_images', 'train'),
        ('train/test', 'test'),  # the innermost
        ('trainer', ''),
        ('my_train_station', ''),
        ('latest', ''),
        ('', ''),
    ],
)
def test_splits_by_name(path, split):
    assert find_split(Path(path)) == split


def test_files_of_a_source(tmp_path):
    source = tmp_path / 'source'
    for name in ('b.XML', 'sub/a.xml', '._b.xml', '__MACOSX/c.xml', '.git/d.xml', 'e.txt'):
        write(source / name, '')
    write(tmp_path / 'elsewhere/f.xml', '')
    (source / 'linked').symlink_to(tmp_path / 'elsewhere')
    (source / 'sub/circle').symlink_to(source)
    found = [path.relative_to(source).as_posix() for path in list_files(source, '.xml')]
    assert found == ['b.XML', 'linked/f.xml', 'sub/a.xml']
    assert list_files(source / 'b.XML', '.xml') == [source / 'b.XML']
    assert list_files(source / 'b.XML', '.txt') == []
    assert list_files(source / 'nothing.txt.d', '.xml') == []


def test_what_is_lost(capsys):
    export = Export('YOLO')
    export.report('a.txt: line 1', 'is not numbers', 'boxes')
    export.report('b.txt', 'no image', 'images', 3)
    export.report('c.txt', 'has another size')
    assert export.lost == {'boxes': 1, 'images': 3}
    assert capsys.readouterr().err == (
        'a.txt: line 1: is not numbers\nb.txt: no image\nc.txt: has another size\n'
    )

"""File names of images from other systems, and what is no file name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from ghmdet.coco.records import ImageRecord
from ghmdet.datasets import CocoDataset
from ghmdet.datasets.file_names import find_elsewhere_names, fix_names
from ghmdet.datasets.image_file import MissingImageError, read_image

NFC, NFD = 'caf\u00e9.jpg', 'cafe\u0301.jpg'


class OwnParsing(CocoDataset):
    """Works on a list of dicts."""

    def parse_data_info(self, raw_data_info):
        return super().parse_data_info(raw_data_info)


class OwnFilter(CocoDataset):
    """Likewise."""

    def filter_data(self):
        return super().filter_data()


class FromUrls(CocoDataset):
    """Takes the last part of a URL."""

    def parse_data_info(self, raw_data_info):
        raw_data_info['raw_img_info']['file_name'] = 'a.jpg'
        return super().parse_data_info(raw_data_info)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Write images and a COCO file that names some, and build a dataset of it."""
    monkeypatch.chdir(tmp_path)

    def make_dataset(there, named, kind=CocoDataset, **kwargs) -> CocoDataset:
        for file in there:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (9, 8)).save(file)
        images = [dict(id=id_, file_name=name, width=9, height=8) for id_, name in enumerate(named)]
        boxes = [
            dict(id=image['id'], image_id=image['id'], category_id=1, bbox=[1, 1, 4, 4])
            for image in images
        ]
        coco = dict(images=images, annotations=boxes, categories=[dict(id=1, name='cat')])
        Path('ann.json').write_text(json.dumps(coco))
        arguments = dict(metainfo=dict(classes=('cat',)), data_prefix=dict(img='imgs/')) | kwargs
        return kind('ann.json', **arguments)

    return make_dataset


def list_paths(dataset) -> list[str]:
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


@pytest.mark.parametrize('kind', [CocoDataset, OwnParsing, OwnFilter])
@pytest.mark.parametrize('test_mode', [False, True])
def test_the_error_names_the_look_alikes_and_fix_names_uses_them(make, capsys, kind, test_mode):
    there = ['imgs/a.JPG', f'imgs/{NFD}', 'imgs/sub/b.jpg', 'imgs/c.jpg', 'imgs/back\\d.jpg']
    named = ['A.jpg', NFC, 'sub\\b.jpg', 'c.jpg', 'back/d.jpg']
    arguments = dict(kind=kind, test_mode=test_mode)
    with pytest.raises(ValueError, match='^4 of 5 checked image files are bad') as caught:
        make(there, named, **arguments).check_image_files()
    for name, real, why in (
        ('A.jpg', 'a.JPG', 'in upper and lower case'),
        (NFC, NFD, 'in the Unicode normal form (both look the same)'),
        ('sub\\b.jpg', 'sub/b.jpg', r'in \ for /'),
        ('back/d.jpg', 'back\\d.jpg', r'in \ for /'),
    ):
        assert (
            f'imgs/{name} (id {named.index(name)}) does not exist, but there is '
            f'{f"imgs/{real}"!r}, which differs {why} (fix_names=True of a dataset uses it)'
        ) in str(caught.value)
    # As advised:
    capsys.readouterr()
    dataset = make(there, named, fix_names=True, **arguments)
    assert list_paths(dataset) == there
    dataset.check_image_files()
    (line,) = [text for text in capsys.readouterr().out.splitlines() if 'fix_names' in text]
    assert line.partition(' - INFO - ')[2] == (
        'ann.json: fix_names=True: 4 image files have nearly the name that is in the file, and are '
        f"used: 'a.JPG' for 'A.jpg', {NFD!r} for {NFC!r} and 2 more"
    )


def test_names_that_fit_several_files_or_none_stay(make):
    there = ['imgs/a.jpg', 'imgs/A.jpg', 'imgs/b.jpg', 'imgs/c.jpg', 'imgs/E.jpg']
    named = ['A.JPG', 'b.jpg', 'B.jpg', 'C.jpg', 'c.JPG', 'd.jpg', 'e.jpg']
    dataset = make(there, named, fix_names=True)
    # b.jpg is the file of another image, and c.jpg could be that of two.
    assert list_paths(dataset) == [f'imgs/{name}' for name in [*named[:-1], 'E.jpg']]
    with pytest.raises(ValueError, match='^5 of 7 checked image files are bad'):
        dataset.check_image_files()


def test_the_image_folder_in_another_case(make, tmp_path):
    for folder in ('imgs/', str(tmp_path / 'imgs')):
        prefix = dict(data_prefix=dict(img=folder))
        with pytest.raises(FileNotFoundError) as caught:
            make(['Imgs/a.jpg'], ['a.jpg'], **prefix)
        assert (
            "Imgs', which differs in upper and lower case (fix_names=True of the dataset uses it)"
            ': check data_root'
        ) in str(caught.value)
        dataset = make([], ['A.jpg'], fix_names=True, **prefix)
        assert list_paths(dataset) == [
            os.path.join(os.path.dirname(folder.rstrip('/')), 'Imgs/a.jpg')
        ]
    with pytest.raises(FileNotFoundError, match=r"no image folder at 'gone': check data_root"):
        make([], ['a.jpg'], data_prefix=dict(img='gone'), fix_names=True)


def test_a_fixed_name_stays_in_the_folder(make):
    with pytest.raises(ValueError, match=r"1 file names lead out of .*: '\.\./a\.jpg'"):
        make(['a.jpg', 'imgs/b.jpg'], ['..\\a.jpg'], fix_names=True)
    dataset = make([], ['..\\a.jpg'], fix_names=True, allow_outside=True)
    assert list_paths(dataset) == ['imgs/../a.jpg']


def test_remote_storage_is_left_alone(make):
    remote = dict(img='https://example.org/')
    dataset = make(['imgs/a.jpg'], ['A.jpg'], fix_names=True, data_prefix=remote)
    assert list_paths(dataset) == ['https://example.org/A.jpg']


def test_fix_names_is_a_flag(make):
    with pytest.raises(ValueError, match="^fix_names must be True or False, got 'yes'"):
        make(['imgs/a.jpg'], ['a.jpg'], fix_names='yes')


def test_a_missing_image_names_its_look_alike(make, tmp_path):
    make(['imgs/a.jpg'], ['a.jpg'])
    with pytest.raises(MissingImageError) as caught:
        read_image('imgs/A.jpg')
    assert str(caught.value) == (
        "image imgs/A.jpg does not exist, but there is 'imgs/a.jpg', which differs in upper and "
        'lower case (fix_names=True of a dataset uses it)'
    )
    assert read_image('imgs/a.jpg').shape == (8, 9, 3)


@pytest.mark.parametrize(
    'name',
    [
        'https://pictures.example.org/set/00001.jpg',
        'http://h/1.jpg',
        's3://bucket/1.jpg',
        'cluster:s3://bucket/1.jpg',
        'gs://bucket/1.jpg',
        'file:///data/1.jpg',
        'sub/https://h/1.jpg',
        'C:\\pictures\\1.jpg',
        'd:/pictures/1.jpg',
        '\\\\host\\pictures\\1.jpg',
        'data:image/png;base64,AAAA',
    ],
)
@pytest.mark.parametrize('folder', ['imgs/', 'https://example.org/'])
def test_urls_are_no_file_names(make, name, folder):
    there, prefix = ['imgs/a.jpg', 'imgs/1.jpg'], dict(data_prefix=dict(img=folder))
    where = folder if '://' in folder else os.path.abspath('imgs')
    for kwargs in ({}, dict(allow_outside=True), dict(fix_names=True)):
        with pytest.raises(
            ValueError, match='^ann.json: 1 file names are URLs or paths of'
        ) as caught:
            make(there, ['a.jpg', name], **prefix, **kwargs)
        assert f"{where}': {name!r} (image id 1). Copy" in str(caught.value)
    dataset = make(there, ['a.jpg', '1.jpg'], **prefix)  # as advised
    assert list_paths(dataset)[1] == f'{folder}1.jpg'
    dataset.check_image_files()
    # A subclass may make a file name of it.
    assert list_paths(make(there, [name], FromUrls, **prefix)) == [f'{folder}a.jpg']


def test_names_that_only_look_like_urls(tmp_path, make):
    Image.new('RGB', (9, 8)).save(tmp_path / 'C:\\1.jpg', 'JPEG')
    names = ['C:\\1.jpg', 'a:1.jpg', 'C.jpg', 'data.jpg']
    assert find_elsewhere_names(names, str(tmp_path)) == []
    # Without a folder, mmengine reads them.
    names = ['https://h/1.jpg', 's3://b/1.jpg', 'cluster:s3://b/1.jpg']
    assert find_elsewhere_names([*names, 'gs://b/1.jpg'], '') == ['gs://b/1.jpg']
    assert list_paths(make([], names, data_prefix=dict(img=''))) == names


def test_real_names_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub' / 'a.jpg').touch()
    for name, folder in (('Sub/A.jpg', ''), (f'{tmp_path}/SUB/a.jpg', str(tmp_path))):
        images = [ImageRecord(1, name), ImageRecord(2, 'sub/a.png'), ImageRecord(3, name)]
        fix_names(images, folder, 'ann.json')
        assert [image.file_name for image in images] == ['sub/a.jpg', 'sub/a.png', 'sub/a.jpg']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le'])
def test_class_files_of_windows(make, encoding):
    Path('classes.txt').write_bytes('cat\r\n\r\n'.encode(encoding))
    dataset = make(['imgs/a.jpg'], ['a.jpg'], metainfo=dict(classes='classes.txt'))
    assert dataset.metainfo['classes'] == ('cat',)
    Path('classes.txt').write_bytes('cat\r\nd\u00f6g'.encode('cp1252'))
    with pytest.raises(ValueError, match=r'^classes.txt: expected text in UTF-8, but byte 0xf6 '):
        make([], ['a.jpg'], metainfo=dict(classes='classes.txt'))

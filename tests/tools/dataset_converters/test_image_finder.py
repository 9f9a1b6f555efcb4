from __future__ import annotations

from pathlib import Path

import image_finder
import pytest
from image_finder import ImageFinder, find_images, read_size
from PIL import Image

NAMES = (
    *('b.JPG', 'B.png', 'sub/c 1.png', 'caf\u00e9.png', 'cam1/0001.jpg', 'cam2/0001.jpg'),
    *('x.jpg', 'x.png', 'x.jpg.png', 'a.1.png', '100%.png', 'other/deep/only.jpeg'),
)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in NAMES:
        path = tmp_path / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 3)).save(path)
    (tmp_path / 'images' / '._b.JPG').write_bytes(b'of macOS')
    return tmp_path / 'images'


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('b.JPG', 'b.JPG'),
        ('b.jpg', 'b.JPG'),
        ('b.jpeg', 'b.JPG'),
        ('b', 'b.JPG'),  # in this case; B.png is another
        ('./sub/c 1', 'sub/c 1.png'),
        ('sub\\c 1.PNG', 'sub/c 1.png'),
        ('D:\\data\\set 1\\sub\\c 1.png', 'sub/c 1.png'),
        ('/home/me/data/c 1.png', 'sub/c 1.png'),
        ('c%201.png', 'sub/c 1.png'),
        ('https://host/data/sub/c%201.png?token=1%2F2', 'sub/c 1.png'),
        ('100%.png', '100%.png'),
        ('cafe\u0301.png', 'caf\u00e9.png'),
        ('0001.jpg', None),
        ('/data/cam2/0001.jpg', 'cam2/0001.jpg'),
        ('cam3/0001.jpg', None),
        ('x.jpg', 'x.jpg'),
        ('x', None),
        ('x.bmp', None),
        ('a.1', 'a.1.png'),
        ('a', None),
        ('only.jpg', 'other/deep/only.jpeg'),
        ('../only.xml', 'other/deep/only.jpeg'),
        ('', None),
        ('\0', None),
        ('.', None),
        ('/', None),
        ('cam1', None),
    ],
)
def test_names(folder, name, found):
    finder = ImageFinder([folder])
    assert finder.find(name) == (folder / found if found else None)


def test_all_paths_once(folder):
    finder = ImageFinder([folder, folder / 'cam1', folder / 'nowhere'])
    assert finder.paths == sorted(folder / name for name in NAMES)
    assert finder.find('cam1/0001.jpg') == folder / 'cam1/0001.jpg'


def test_why_none_is_found(folder):
    finder = ImageFinder([folder])
    both = f'{folder}/cam1/0001.jpg, {folder}/cam2/0001.jpg'
    assert finder.explain('0001.jpg') == f'2 images fit: {both}'
    assert finder.explain('nothing.jpg') == f'no image of this name in {folder}'


def test_names_relative_to_the_file_that_has_them(folder):
    """LabelMe writes `../images/b.JPG`, keras-retinanet absolute paths."""
    labels, outside = folder.parent / 'labels', folder.parent / 'outside.png'
    labels.mkdir()
    Image.new('RGB', (4, 3)).save(outside)
    finder = ImageFinder([labels])
    assert finder.find('../images/b.JPG', beside=labels) == folder / 'b.JPG'
    assert finder.find('../images/b.JPG') is None
    assert finder.find(str(outside)) == outside
    assert finder.find('../secret.txt', beside=labels) is None


def test_an_image_beside_the_file_that_names_it_comes_first(folder):
    """As in Roboflow's folders, each with a file of annotations."""
    Image.new('RGB', (4, 3)).save(folder / '0001.jpg')
    finder = ImageFinder([folder])
    assert finder.find('0001.jpg', beside=folder / 'cam2') == folder / 'cam2/0001.jpg'
    assert finder.find('0001.jpg', beside=folder / 'sub') == folder / '0001.jpg'


def test_where_the_images_of_a_source_are(folder, monkeypatch, capsys):
    labels = folder.parent / 'labels'
    labels.mkdir()
    assert find_images(folder / 'a.csv', None).folders == [folder]
    assert find_images(labels, folder / 'cam1').paths == [folder / 'cam1/0001.jpg']
    assert capsys.readouterr().out == ''
    assert find_images(labels, None).folders == [folder.parent]
    beside = f'{labels}: they are searched beside it, in {folder.parent} and below'
    assert capsys.readouterr().out == f'no images in {beside}\n'
    with pytest.raises(FileNotFoundError, match='no images in .*labels and below: correct --imag'):
        find_images(folder, labels)

    def refuse(path: Path) -> list[Path]:
        if path != labels:
            raise PermissionError('not yours')
        return []

    monkeypatch.setattr(image_finder, 'list_images', refuse)
    with pytest.raises(FileNotFoundError, match='name their folder with --images'):
        find_images(labels, None)
    with pytest.raises(PermissionError):
        find_images(folder, None)


def test_size_as_displayed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.jpg', exif=exif)
    assert read_size(tmp_path / 'a.jpg') == (30, 40)

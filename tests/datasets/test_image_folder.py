"""Folders of images without annotations."""

import cv2
import numpy as np
import pytest
from PIL import Image

from ghmdet.datasets import ImageFolder
from ghmdet.datasets.image_file import ImageError, find_image_fault, read_image
from ghmdet.datasets.image_folder import SUFFIXES, list_images
from ghmdet.registry import DATASETS


def test_images_of_a_folder(tmp_path):
    (tmp_path / 'b' / 'c').mkdir(parents=True)
    image = np.zeros((6, 8, 3), np.uint8)
    for name in ('z.PNG', 'b/c/1.jpeg', 'b/2.jpg'):
        assert cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / '._z.png').write_text('what macOS leaves behind')
    (tmp_path / 'b' / 'notes.json').write_text('{}')
    cfg = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    dataset = DATASETS.build(cfg)
    assert type(dataset) is ImageFolder
    assert [dataset.get_data_info(i) for i in range(len(dataset))] == [
        dict(
            img_id=name,
            img_path=f'{tmp_path}/{name}',
            width=8,
            height=6,
            instances=[],
            sample_idx=i,
        )
        for i, name in enumerate(('b/2.jpg', 'b/c/1.jpeg', 'z.PNG'))
    ]
    (tmp_path / 'broken.jpg').write_bytes(b'\xff\xd8 no more')
    with pytest.raises(ImageError, match=r'broken\.jpg cannot be read as an image'):
        DATASETS.build(cfg)


# Of names that neither Pillow nor OpenCV writes, the format by another name.
SAME = {'.jfi': '.jpg', '.jif': '.jpg', '.pjp': '.jpg', '.pjpeg': '.jpg'}


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_each_suffix_is_of_a_format_that_is_decoded(tmp_path, suffix):
    file = tmp_path / f'a{SAME.get(suffix, suffix)}'
    try:
        if suffix == '.dib':  # which Pillow writes without the header of a file
            raise ValueError
        Image.new('RGB', (64, 40), (200, 30, 30)).save(file)
    except (OSError, ValueError, KeyError):
        assert cv2.imwrite(str(file), np.full((40, 64, 3), (30, 30, 200), np.uint8))
    file.rename(tmp_path / f'b{suffix.upper()}')
    (name,) = list_images(tmp_path)
    assert name == f'b{suffix.upper()}'
    assert find_image_fault(tmp_path / name, (64, 40)) is None
    assert np.abs(read_image(tmp_path / name)[20, 30].astype(int) - (30, 30, 200)).max() <= 3


def test_linked_folders_are_followed_once(tmp_path):
    root, other = tmp_path / 'root', tmp_path / 'other'
    for folder in (root / 'z', other / 'sub', root / '.hidden', root / 'd.jpg'):
        folder.mkdir(parents=True)
    for file in ('root/z/1.jpg', 'other/2.JFIF', 'other/sub/3.png', 'root/.hidden/4.png'):
        (tmp_path / file).touch()
    (root / 'd.jpg' / 'sub.png').touch()
    (root / 'a').symlink_to('z')  # is listed by its own name
    (root / 'l').symlink_to(other)
    (root / 'm').symlink_to(other)  # a second time
    (other / 'sub' / 'back').symlink_to(root)
    (root / 'z' / 'self').symlink_to('.')
    (root / 'gone.jpg').symlink_to('nowhere')
    (root / 'one.jpg').symlink_to('z/1.jpg')
    names = ['d.jpg/sub.png', 'gone.jpg', 'l/2.JFIF', 'l/sub/3.png', 'one.jpg', 'z/1.jpg']
    assert list_images(root) == names
    assert list_images(f'{root}/../root') == names


def test_images_can_be_left_out(tmp_path):
    for name in ('a.jpg', 'b.jpg'):
        Image.new('RGB', (8, 6)).save(tmp_path / name)
    (tmp_path / 'b.jpg').write_bytes(b'')
    cfg = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    loader = dict(type='LoadImageFromFile', max_pixels=48)
    dataset = DATASETS.build(cfg | dict(left_out=['b.jpg'], pipeline=[loader]))
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == ['a.jpg']


def test_folders_without_images(tmp_path):
    cfg = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    with pytest.raises(ValueError, match='no image in this folder') as caught:
        DATASETS.build(cfg)
    assert str(caught.value).startswith(f'{tmp_path}: no image in this folder; looked for .apng, ')
    assert str(caught.value).endswith('.webp there and in its subfolders')
    cfg['data_prefix'] = dict(img='nowhere')
    with pytest.raises(NotADirectoryError, match="expected a folder of images, but 'nowhere' is"):
        DATASETS.build(cfg)


def test_the_limit_of_pixels_is_that_of_the_pipeline(tmp_path):
    Image.new('RGB', (8, 6)).save(tmp_path / 'a.jpg')
    loader = dict(type='LoadImageFromFile', max_pixels=47)
    folder = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    with pytest.raises(ImageError, match='a.jpg has more than 47 pixels'):
        DATASETS.build(folder | dict(pipeline=[loader]))

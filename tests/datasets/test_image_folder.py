"""Folders of images without annotations."""

import cv2
import numpy as np
import pytest

from ghmdet.datasets import ImageFolder
from ghmdet.datasets.image_file import ImageError
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


def test_folders_without_images(tmp_path):
    cfg = dict(type='ImageFolder', data_prefix=dict(img=str(tmp_path)), test_mode=True)
    with pytest.raises(ValueError, match='no image in this folder') as caught:
        DATASETS.build(cfg)
    assert str(caught.value) == (
        f'{tmp_path}: no image in this folder; looked for .bmp, .jpeg, .jpg, .png, .tif, .tiff, '
        '.webp there and in its subfolders'
    )
    cfg['data_prefix'] = dict(img='nowhere')
    with pytest.raises(NotADirectoryError, match="expected a folder of images, but 'nowhere' is"):
        DATASETS.build(cfg)

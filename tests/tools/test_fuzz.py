"""Files from strangers: read, or refused by the errors that the docstrings name; nothing else.

Hypothesis makes the files, the same ones in every run: 100 of each kind, and many more in the long
tier. None may crash, take seconds, or leave a file outside of the folder it was given.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pascal_voc
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

from ghmdet.checkpoint.reader import CheckpointError, load_checkpoint_file
from ghmdet.coco.classes import find_classes, match_classes
from ghmdet.datasets import read_coco
from ghmdet.datasets.coco_images import build_images
from ghmdet.datasets.image_file import ImageError, find_image_fault, read_image
from tests.hostile import write


def attempt(errors: Any, function: Callable, *args: Any) -> tuple[Any, Any]:
    """What the function returns, and which of the errors it raised."""
    try:
        return function(*args), None
    except errors as error:
        return None, error


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder `in` for the example, beside which nothing may appear."""
    folder = tmp_path / 'in'
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    yield folder
    assert [path.name for path in tmp_path.iterdir()] == ['in']


def renew(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


@st.composite
def damaged(draw: Any, originals: list[bytes], tokens: list[bytes]) -> bytes:
    """A file with one to four places overwritten, cut out, repeated or filled with a token."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 40)))
        given = [st.just(b''), st.just(bytes(content[start:stop]) * 2)]
        content[start:stop] = draw(
            st.one_of(*given, st.sampled_from(tokens), st.binary(max_size=8))
        )
    return bytes(content if draw(st.booleans()) else content[: draw(st.integers(0, len(content)))])


# Annotation files

EXTREME = [2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, -1e308, 0.5, math.nan, math.inf]
NUMBERS = st.one_of(st.integers(-3, 60), st.sampled_from(EXTREME))
VALUES = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.sampled_from(['', '1', 'a.jpg', '../a.jpg', '/etc/passwd', 'a\0b', '\ud800', 'cat']),
    st.lists(NUMBERS, max_size=5),
    st.dictionaries(st.sampled_from(['id', 'counts']), NUMBERS, max_size=1),
)


def record(good: dict) -> st.SearchStrategy:
    """Mostly the good values, in part others, in part none."""
    fields = {key: st.one_of(st.just(value), st.just(value), VALUES) for key, value in good.items()}
    return st.one_of(st.just(good), st.fixed_dictionaries({}, optional=fields), VALUES)


IMAGE = dict(id=1, file_name='a.jpg', height=40, width=50)
ANNOTATION = dict(
    id=1, image_id=1, category_id=1, bbox=[1, 2, 3, 4], area=12, iscrowd=0, segmentation=[]
)
CATEGORY = dict(id=1, name='cat', supercategory='animal')
GOOD = dict(images=[IMAGE], annotations=[ANNOTATION] * 3, categories=[CATEGORY])
CATEGORIES = st.one_of(st.just([CATEGORY]), st.lists(record(CATEGORY), max_size=2), VALUES)
DOCUMENTS = st.fixed_dictionaries(
    {
        'images': st.one_of(st.just([IMAGE]), st.lists(record(IMAGE), max_size=3), VALUES),
        'annotations': st.one_of(st.lists(record(ANNOTATION), max_size=4), VALUES),
        'categories': CATEGORIES,
    },
    optional={'info': VALUES},
)
JSON_TOKENS = [
    *(b'NaN', b'-Infinity', b'1e999', b'null', b'-1', b'"', b'{', b'[', b'}', b']', b',', b'//'),
    *(b'\\ud800', b'\\u0000', b'\xff\xfe', b'\xef\xbb\xbf', b'9' * 400, b'true'),
    *(b'"annotations":[', b'[' * 2000, b'{"a":' * 2000),
]


def read_images(file: Path) -> Any:
    """Read the file as a dataset does."""
    records = read_coco(str(file))
    annotated = records.annotations.category_ids
    ids = match_classes(('cat',), records.categories, str(file), annotated)
    find_classes(records)
    return build_images(records, {ids[0]: 0}, 'imgs', False)[0]


def check_coco(folder: Path, content: bytes) -> None:
    file = folder / 'train.json'
    file.write_bytes(content)
    images, error = attempt(ValueError, read_images, file)
    if error is not None:
        assert str(file) in str(error)
        assert len(str(error)) < 5000
        return
    for image in images:
        assert image['height'] > 0 < image['width']
        for instance in image['instances']:
            assert all(map(math.isfinite, instance['bbox']))


# Pascal VOC

XML = (
    b'<annotation><filename>a.png</filename><size><width>5</width><height>4</height></size><object>'
    b'<name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>'
    b'<ymax>4</ymax></bndbox></object></annotation>'
)
XML_TOKENS = [
    *(b'<', b'>', b'&', b'&lt;', b'&#0;', b'&x;', b'<!--', b'<![CDATA[', b'<?', b'</', b'\0'),
    *(b'nan', b'-inf', b'1e308', b'-1e308', b'9' * 5000, b'\xff', b'<object>' * 500, b'</object>'),
    *(b'<!DOCTYPE a [<!ENTITY x "y">]>', b'<!DOCTYPE a SYSTEM "file:///etc/passwd">'),
    *(b'<?xml version="1.0" encoding="utf-7"?>', b'<?xml version="1.0" encoding="utf-16"?>'),
    *(b'<?xml version="1.0" encoding="gbk"?>', b'<?xml version="1.0" encoding="idna"?>'),
    *(b'<?xml version="1.0" encoding="undefined"?>', b'<?xml encoding="unicode_escape"?>\\N{'),
]
LINE = [
    b'a',
    b'b',
    b'../a',
    b'/etc/passwd',
    b'..',
    b'a -1',
    b'',
    b'\xff',
    b'\0',
    b'a/b',
    b'C:\\a.png',
]
LINES = st.lists(st.sampled_from(LINE), max_size=4)


def check_voc(root: Path, example: tuple[bytes, list[bytes]]) -> None:
    xml, lines = example
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / folder).mkdir(parents=True)
    (root / 'Annotations' / 'a.xml').write_bytes(xml)
    Image.new('RGB', (5, 4)).save(root / 'JPEGImages' / 'a.png')
    (root / 'ImageSets' / 'Main' / 'train.txt').write_bytes(b'\n'.join([b'a', *lines]))
    before = set(root.rglob('*'))
    _, end = attempt(ValueError, pascal_voc.main, [str(root), '--out', str(root / 'out')])
    out = root / 'out'
    if 'expected text in' in str(end):  # the list
        assert not out.exists()
        return
    assert end is None or str(end).endswith('The annotation files are written all the same')
    file = out / 'annotations' / 'train.json'
    assert set(root.rglob('*')) - before == {out, file.parent, file, out / 'JPEGImages'}
    assert len(read_coco(str(file)).images) <= 1


# Checkpoints


def saved(content: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


TENSOR = torch.arange(6.0).reshape(2, 3)
CHECKPOINT = dict(state_dict={'a.weight': TENSOR, 'b': TENSOR[0]}, meta=dict(epoch=1, x=np.ones(2)))
FILES = [saved(CHECKPOINT), saved(CHECKPOINT, _use_new_zipfile_serialization=False)]
# Without tensors, which lie outside of the pickle.
PICKLES = [
    pickle.dumps(dict(state_dict={}, meta=dict(epoch=1, x=np.ones(2), y=[(1, 'a'), {2.5}])), p)
    for p in (2, 4)
]
PICKLE_TOKENS = [
    *(b'cposix\nsystem\n', b'ctorch\nload\n', b'cbuiltins\ngetattr\n', b'cnumpy\ndtype\n'),
    *(b'ctorch._utils\n_rebuild_tensor_v2\n', b'R', b'b', b'.', b'(', b't', b'\x81', b'Q', b'0'),
    *(b'2', b'\x8a\xff', b'I' + b'9' * 5000 + b'\n', b'X\xff\xff\xff\x7f', b'B\xff\xff\xff\x7f'),
    *(b'N', b'}', b'\x80\x02' * 3, b'h\x00', b'j\xff\xff\xff\xff'),
]
SAFE = save_safetensors({'a.weight': TENSOR}, {'classes': '["cat"]', 'epoch': '3'})


def check_checkpoint(folder: Path, content: bytes, name: str = 'a.pth') -> None:
    file = folder / name
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found, error = attempt(CheckpointError, load_checkpoint_file, file)
    if error is not None:
        assert str(file) in str(error)
    else:
        assert isinstance(found, Mapping)


def check_pickle(folder: Path, content: bytes) -> None:
    """In a valid archive, whose checksums hold."""
    check_checkpoint(folder, write(folder / 'a.pth', content).read_bytes())


SAFETENSORS = st.one_of(
    damaged([SAFE], [b'"F32"', b'"shape":[-1]', b'[0,99]', *JSON_TOKENS]),
    st.builds(
        lambda n, rest: n.to_bytes(8, 'little') + rest,
        NUMBERS.filter(lambda n: isinstance(n, int) and 0 <= n < 2**64),
        st.binary(max_size=60),
    ),
)

# Images

NOISE = np.random.RandomState(0).randint(0, 255, (10, 20, 3), np.uint8)
IMAGE_TOKENS = [b'\xff\xd9', b'IEND', b'\xff' * 4, bytes(4), b'\x7f\xff\xff\xff', b'Exif\0\0II*\0']


def draw(kind: str) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(buffer, kind, exif=exif)
    return buffer.getvalue()


IMAGES = st.sampled_from(['JPEG', 'PNG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM']).flatmap(
    lambda kind: st.tuples(st.just(kind), damaged([draw(kind)], IMAGE_TOKENS))
)


def check_image(folder: Path, example: tuple[str, bytes]) -> None:
    """Whatever the check lets through, decoding gives an image or refuses it by name."""
    kind, content = example
    file = folder / 'a.jpg'
    file.write_bytes(content)
    fault = find_image_fault(file)
    img, error = attempt(ImageError, read_image, file)
    if error is not None:
        assert str(error).startswith(f'image {file} ')
    # What is wrong with a JPEG's header, OpenCV forgives or says in other words.
    if fault is not None and kind != 'JPEG':
        assert str(error) == f'image {file} {fault}'
    if error is None:
        assert (img.dtype, img.shape[2:]) == (np.uint8, (3,))


ZIPS = damaged(FILES, [b'PK\x03\x04', b'PK\x01\x02', b'\xff' * 8, *PICKLE_TOKENS])
JSONS = damaged([json.dumps(GOOD).encode(), json.dumps(GOOD, indent=1).encode()], JSON_TOKENS)
FUZZ = {  # what makes the examples, what reads one, how many in the long tier
    'annotation values': (DOCUMENTS.map(lambda d: json.dumps(d).encode()), check_coco, 800),
    'annotation files': (JSONS, check_coco, 800),
    'VOC': (st.tuples(damaged([XML], XML_TOKENS), LINES), check_voc, 250),
    'checkpoints': (ZIPS, check_checkpoint, 500),
    'pickles': (damaged(PICKLES, PICKLE_TOKENS), check_pickle, 800),
    'safetensors': (SAFETENSORS, partial(check_checkpoint, name='a.safetensors'), 800),
    'images': (IMAGES, check_image, 600),
}
CASES = [(kind, 100) for kind in FUZZ]
CASES += [pytest.param(kind, FUZZ[kind][2], marks=pytest.mark.long) for kind in FUZZ]


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow's
@pytest.mark.parametrize(('kind', 'number'), CASES)
def test_files_are_read_or_refused(folder, monkeypatch, capfd, kind, number):
    monkeypatch.delenv('GHMDET_TRUST_CHECKPOINT', raising=False)
    strategy, check, _ = FUZZ[kind]

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=5000,  # ms per example: a noisy machine is no hang
        suppress_health_check=list(HealthCheck),
    )
    @given(example=strategy)
    def run(example: Any) -> None:
        check(renew(folder), example)

    run()

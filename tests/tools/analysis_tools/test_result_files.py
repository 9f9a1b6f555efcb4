"""Detections read from files: COCO's JSON, predict's, data sets with scores, pickles."""

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from results.files import read_results

from ghmdet.evaluation import CocoMetric, DumpDetResults
from ghmdet.evaluation.coco_annotations import CocoAnnotations

CLASSES = ('cat', 'dog')
ENTRY = dict(image_id=7, category_id=1, bbox=[1, 2, 3, 4], score=0.5)
READ = {7: [([1, 2, 4, 6], 0.5, 1)]}
TENSORS = dict(
    bboxes=torch.tensor([[1.0, 2, 4, 6]]), scores=torch.tensor([0.5]), labels=torch.tensor([1])
)
SAMPLE = dict(
    img_id=7,
    img_path='/data/a/1.jpg',
    ori_shape=(480, 640),
    img_shape=torch.Size((480, 640)),
    scale_factor=np.array([1.0, 2.0]),
    homography_matrix=np.eye(3, dtype=np.float32),
    flip=False,
    pred_instances=TENSORS,
)


@pytest.fixture
def truth(tmp_path):
    content = dict(
        images=[
            dict(id=id_, file_name=name, width=640, height=480)
            for id_, name in ((7, 'a/1.jpg'), (8, 'b/1.jpg'), (9, '2.jpg'))
        ],
        categories=[dict(id=3, name='cat'), dict(id=1, name='dog'), dict(id=2, name='owl')],
        annotations=[dict(id=1, image_id=7, category_id=3, bbox=[0, 0, 9, 9])],
    )
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    return CocoAnnotations.from_file(str(tmp_path / 'truth.json'))


@pytest.fixture
def read(truth, tmp_path):
    """Write a file and read it: (box, score, label) of each detection, by the id of its image."""

    def read(content, name='found.json', classes=CLASSES):
        file = tmp_path / name
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            text = json.dumps(content).encode() if name.endswith('json') else pickle.dumps(content)
            file.write_bytes(text)
        images = read_results(file, truth, classes)
        assert [image['img_id'] for image in images] == [7, 8, 9]
        return {
            image['img_id']: list(
                zip(*(image[key].tolist() for key in ('bboxes', 'scores', 'labels')), strict=True)
            )
            for image in images
            if len(image['scores'])
        }

    return read


def test_coco_results(read):
    assert read([ENTRY]) == READ
    assert read([]) == {}
    more = [ENTRY, ENTRY | dict(image_id=9), ENTRY | dict(category_id=3, score=0)]
    assert read(more) == {7: [*READ[7], ([1, 2, 4, 6], 0, 0)], 9: READ[7]}
    with_mark = b'\xef\xbb\xbf' + json.dumps([ENTRY]).encode()
    assert read(with_mark) == READ


@pytest.mark.parametrize(
    'change',
    [
        dict(image_id='a/1.jpg'),
        dict(image_id='photos/a/1.jpg', file_name='photos/a/1.jpg'),
        dict(image_id='C:\\photos\\a\\1.jpg'),
        dict(image_id=1, file_name='/data/a/1.jpg'),
        dict(image_id=9, file_name='a/1.jpg'),  # numbered otherwise than the annotation file
        dict(file_name='1.jpg'),  # of two images, the one with this id
        dict(category_id=3, category_name='dog'),
        dict(category_id=77, category_name='dog'),
        dict(category_name='dog', file_name='a/1.jpg', frame=3),
    ],
)
def test_images_by_file_name_and_categories_by_name(read, change):
    assert read([ENTRY | change]) == READ


def test_a_data_set_whose_annotations_have_scores(read):
    content = dict(
        images=[dict(id=1, file_name='x/b/1.jpg'), dict(id=7, file_name='2.jpg')],
        categories=[dict(id=1, name='cat')],
        annotations=[ENTRY | dict(image_id=1, id=1, area=12, iscrowd=0), ENTRY | dict(id=2)],
    )
    assert read(content) == {8: [([1, 2, 4, 6], 0.5, 0)], 9: [([1, 2, 4, 6], 0.5, 0)]}


def test_what_does_not_count_is_logged(read, monkeypatch):
    lines = []
    monkeypatch.setattr('results.files.print_log', lambda text, logger: lines.append(text))
    assert read([ENTRY, ENTRY | dict(category_id=2)]) == READ
    assert lines.pop().endswith('1 detections of categories that are not measured are left out')
    negative = [ENTRY | dict(bbox=[1, 2, 3, -4]), ENTRY | dict(bbox=[1, 2, 0, 4])]
    assert read(negative) == {7: [([1, 2, 4, -2], 0.5, 1), ([1, 2, 1, 6], 0.5, 1)]}
    assert lines.pop().endswith('1 detections have a negative width or height and find nothing')


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'', 'the file is empty'),
        (json.dumps([ENTRY]).encode()[:-4], 'broken JSON at line 1, column 6[0-9]'),
        (b'\x1f\x8b\x08\x00ab', 'expected text in UTF-8, but byte 0x8b at offset 1'),
        (b'[' * 100_000, 'nested too deeply'),
        (5, 'expected COCO results, a list of objects with image_id, category_id, bbox and score'),
        ([5], r'got `int` - at `\$\[0\]`'),
        (dict(images=[]), 'missing required field `annotations`'),
        (
            dict(images=[], categories=[], annotations=[dict(image_id=7, bbox=[1, 2, 3, 4])]),
            r'missing required field `score` - at `\$.annotations\[0\]`',
        ),
        ([ENTRY, ENTRY | dict(bbox=[1, 2, 3])], r'length 4, got 3 - at `\$\[1\].bbox`'),
        ([ENTRY | dict(score='0.5')], r'Expected `float`, got `str` - at `\$\[0\].score`'),
        ([ENTRY, ENTRY | dict(score=float('nan'))], 'entry 1 of image 7: .*, score nan'),
        ([ENTRY | dict(bbox=[1, 2, float('inf'), 4])], r'entry 0 of image 7: x1 y1 x2 y2 \[1.0'),
        (b'[{"image_id": 7, "bbox": [1, 2, 3, 1e999], "score": 1, "category_id": 1}]', 'inf'),
        ([ENTRY | dict(bbox=[1, 2, 3, 2e9])] * 5, '5 detections with a number .* and 2 more'),
    ],
)
def test_what_is_no_json_of_detections_is_named(read, content, expected):
    with pytest.raises(ValueError, match=f'found.json: .*{expected}'):
        read(content)


@pytest.mark.follows('Give the annotation file of the images that the detections are of')
def test_unknown_images(read, tmp_path):
    entries = [ENTRY | dict(image_id=id_) for id_ in (55, '7', 'c/1.jpg', '1.jpg')]
    with pytest.raises(ValueError, match="4 of 5 images .*: 55, '7', 'c/1.jpg', '1.jpg'; .* 7, 8"):
        read([ENTRY, *entries])
    other = dict(
        images=[dict(id=e['image_id'], width=9, height=9) for e in entries],
        categories=[dict(id=1, name='dog')],
        annotations=[],
    )
    (tmp_path / 'other.json').write_text(json.dumps(other))
    (tmp_path / 'found.json').write_text(json.dumps(entries))
    of_others = CocoAnnotations.from_file(str(tmp_path / 'other.json'))
    images = read_results(tmp_path / 'found.json', of_others, ('dog',))
    assert [len(image['scores']) for image in images] == [1, 1, 1, 1]


@pytest.mark.follows('Give the annotation file with the categories of the detections')
def test_unknown_categories(read):
    entries = [ENTRY | dict(category_id=55), ENTRY | dict(category_name='dgo')]
    with pytest.raises(
        ValueError, match=r"id 55, 'dgo' \(did you mean 'dog'\?\); .* has 3 cat, 1 dog, 2 owl"
    ):
        read(entries)
    assert read([entries[0] | dict(category_id=1)]) == READ


@pytest.mark.follows('the name of a file of detections must end in')
def test_other_files(read, truth, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \('.json', '.pkl', '.pickle'\)"):
        read([ENTRY], 'found.txt')
    read([ENTRY])
    with pytest.raises(FileNotFoundError, match="there is '.*found.json', which differs in upper"):
        read_results(tmp_path / 'Found.json', truth, CLASSES)


# --- pickles --------------------------------------------------------------------------------------


@pytest.mark.parametrize('protocol', range(2, 6))
def test_pickles_of_tensors_and_arrays(read, protocol):
    reversed_ = dict(
        bboxes=np.asfortranarray([[1, 2, 4, 6], [0, 0, 1, 1]], dtype='>f4')[::-1],
        scores=np.array([0.25, 0.5]),
        labels=[0, 1],
    )
    half = {key: value.half() if key != 'labels' else value for key, value in TENSORS.items()}
    empty = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=np.zeros(0, int))
    samples = [
        SAMPLE,
        SAMPLE,  # repeated by a sampler
        OrderedDict(img_id=np.int64(8), pred_instances=reversed_),
        dict(img_id='2.jpg', img_path='/data/2.jpg', pred_instances=half),
        dict(img_id=7, pred_instances=empty),
    ]
    content = pickle.dumps(samples, protocol=protocol)
    expected = {8: [([0, 0, 1, 1], 0.25, 0), ([1, 2, 4, 6], 0.5, 1)], 9: READ[7], **READ}
    assert read(content, 'found.pkl') == expected
    assert read([], 'found.pickle') == {}


def test_what_a_test_writes_is_read_exactly(truth, tmp_path):
    generator = torch.Generator().manual_seed(0)
    samples = []
    for id_ in (7, 8):
        corners = torch.rand(50, 2, generator=generator) * 300
        boxes = torch.cat([corners, corners + torch.rand(50, 2, generator=generator) * 90], 1)
        scores, labels = torch.rand(50, generator=generator), torch.arange(50) % 2
        instances = dict(bboxes=boxes, scores=scores, labels=labels)
        samples.append(dict(img_id=id_, img_path=f'/x/{id_}', pred_instances=instances))
    metric = CocoMetric(truth.source.split("'")[1], outfile_prefix=str(tmp_path / 'found'))
    metric.dataset_meta = dict(classes=CLASSES)
    dump = DumpDetResults(out_file_path=str(tmp_path / 'found.pkl'))
    for each in (metric, dump):
        each.process({}, samples)
        each.evaluate(len(samples))
    for name in ('found.bbox.json', 'found.pkl'):
        images = read_results(tmp_path / name, truth, CLASSES)
        for image, sample in zip(images, samples):
            for key, values in sample['pred_instances'].items():
                np.testing.assert_array_equal(image[key], values.numpy())


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.follows('Write the detections as JSON: tools/test.py --out found.json')
@pytest.mark.parametrize(
    ('harm', 'name'),
    [
        (Call(os.mkdir, 'harm'), 'posix.mkdir'),
        (Call(eval, "__import__('os').mkdir('harm')"), 'eval'),
        (Call(getattr, torch.Tensor, 'cpu'), 'getattr'),
        (
            Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.mkdir, 'harm'), 2)),
            'a tensor that is none',
        ),
        (np.array([None, 'a']), r"numpy.dtype\('O8'\)"),
        (Path('photos/1.jpg'), 'PosixPath'),
        (torch.nn.Linear(1, 1), r'torch.nn'),
    ],
)
def test_a_pickle_that_needs_anything_else_is_refused(read, harm, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = [SAMPLE | dict(harm=harm)]
    with pytest.raises(ValueError, match=f'found.pkl was refused: loading it would use .*{name}'):
        read(samples, 'found.pkl')
    assert not Path('harm').exists()
    assert read([ENTRY]) == READ


@pytest.mark.follows('It is truncated or damaged, or no pickle of a test: write it again')
def test_damaged_pickles(read):
    whole = pickle.dumps([SAMPLE] * 3)
    for content in (b'', b'abc', *(whole[:n] for n in range(1, len(whole), 97))):
        with pytest.raises(ValueError, match=r'found.pkl \(\d+ bytes\) cannot be read'):
            read(content, 'found.pkl')
    assert read(whole, 'found.pkl') == READ


@pytest.mark.follows('(as of MMDetection 2: write JSON there, tools/test.py --format-only)')
def test_pickles_of_other_content(read):
    two = [[np.zeros((2, 5), np.float32), np.zeros((0, 5), np.float32)]]
    with pytest.raises(ValueError, match=r'got a list at index 0 \(as of MMDetection 2'):
        read(two, 'found.pkl')
    assert read([ENTRY]) == READ
    cases = {
        'expected a list of images, got a dict': {},
        'got a int at index 1': [SAMPLE, 5],
        'got a dict at index 0': [dict(pred_instances=TENSORS)],
        'labels, bboxes, scores differ in length': [
            SAMPLE | dict(pred_instances=TENSORS | dict(scores=torch.zeros(2)))
        ],
        "1 of 2 images are not in .*: '/data/3.jpg'": [
            SAMPLE,
            SAMPLE | dict(img_id=3, img_path='/data/3.jpg'),
        ],
        'score nan': [SAMPLE | dict(pred_instances=TENSORS | dict(scores=torch.tensor([np.nan])))],
    }
    for expected, content in cases.items():
        with pytest.raises(ValueError, match=f'found.pkl.*{expected}'):
            read(content, 'found.pkl')


@pytest.mark.follows('Labels of a pickle are indices in the classes of the model; give its config')
def test_labels_without_a_class(read):
    samples = [SAMPLE | dict(pred_instances=TENSORS | dict(labels=torch.tensor([2])))]
    with pytest.raises(ValueError, match='has label 2, but there are 2 classes: cat, dog'):
        read(samples, 'found.pkl')
    assert read(samples, 'found.pkl', ('cat', 'owl', 'dog')) == {7: [([1, 2, 4, 6], 0.5, 2)]}

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from ghmdet.coco.classes import COCO_CLASSES, COCO_PALETTE
from ghmdet.datasets import CocoDataset
from ghmdet.registry import DATASETS

COCO_MINI = Path(__file__).parents[3] / 'shared' / 'data' / 'coco_mini'


@pytest.fixture
def coco() -> dict:
    """Categories neither sorted nor from 1; annotations 1 to 5 used, the others each wrong once."""
    anns = [
        {'image_id': 30, 'category_id': 9, 'bbox': [10, 20, 30, 40], 'area': 600, 'iscrowd': 0},
        {'image_id': 30, 'category_id': 4, 'bbox': [0.5, 1.5, 2, 3]},
        {'image_id': 30, 'category_id': 9, 'bbox': [90, 70, 30, 30], 'area': 5, 'iscrowd': 1},
        {'image_id': 10, 'category_id': 4, 'bbox': [-5, -5, 10, 10], 'area': 100},
        {'image_id': 10, 'category_id': 4, 'bbox': [0, 0, 9, 9], 'area': 81, 'ignore': 1},
        {'image_id': 10, 'category_id': 4, 'bbox': [0, 0, 9, 9], 'area': 0},
        {'image_id': 10, 'category_id': 4, 'bbox': [0, 0, 0.9, 9]},
        {'image_id': 10, 'category_id': 4, 'bbox': [100, 0, 9, 9]},
        {'image_id': 10, 'category_id': 1, 'bbox': [0, 0, 9, 9]},
        {'image_id': 20, 'category_id': 1, 'bbox': [0, 0, 9, 9]},
    ]
    sizes = {30: (100, 80), 10: (100, 80), 20: (100, 80), 40: (100, 31)}
    images = [
        {'id': image_id, 'file_name': f'{image_id}.jpg', 'width': width, 'height': height}
        for image_id, (width, height) in sizes.items()
    ]
    categories = [{'id': id_, 'name': name} for id_, name in ((9, 'dog'), (4, 'cat'), (1, 'cow'))]
    return {'images': images, 'annotations': anns, 'categories': categories}


@pytest.fixture
def build(tmp_path, coco):
    """Write `coco` as it then is and build a dataset of it."""
    (tmp_path / 'imgs').mkdir()

    def build_dataset(**kwargs) -> CocoDataset:
        (tmp_path / 'ann.json').write_text(json.dumps(coco))
        defaults = {
            'ann_file': 'ann.json',
            'data_root': str(tmp_path),
            'data_prefix': {'img': 'imgs/'},
            'metainfo': {'classes': ('cat', 'dog')},
        }
        return CocoDataset(**defaults | kwargs)

    return build_dataset


def list_ids(dataset) -> list[int]:
    return [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))]


def test_images_keep_the_order_of_the_file_and_boxes_become_corners(build, tmp_path):
    dataset = build()
    assert list_ids(dataset) == [30, 10, 20, 40]
    assert dataset.get_data_info(0) == {
        'img_id': 30,
        'img_path': str(tmp_path / 'imgs' / '30.jpg'),
        'height': 80,
        'width': 100,
        'sample_idx': 0,
        'instances': [
            {'bbox': [10.0, 20.0, 40.0, 60.0], 'bbox_label': 1, 'ignore_flag': 0},
            {'bbox': [0.5, 1.5, 2.5, 4.5], 'bbox_label': 0, 'ignore_flag': 0},
            {'bbox': [90.0, 70.0, 120.0, 100.0], 'bbox_label': 1, 'ignore_flag': 1},
        ],
    }


def test_bad_boxes_are_left_out_and_the_rest_is_not_clipped(build):
    dataset = build()
    assert dataset.get_data_info(1)['instances'] == [
        {'bbox': [-5.0, -5.0, 5.0, 5.0], 'bbox_label': 0, 'ignore_flag': 0},
        {'bbox': [0.0, 0.0, 9.0, 9.0], 'bbox_label': 0, 'ignore_flag': 1},  # as a crowd is
    ]
    assert dataset.get_data_info(2)['instances'] == []
    assert dataset.counts.dropped == {
        'of other classes': 2,
        'outside the image': 1,
        'thinner than a pixel': 1,
        'with an area of 0 or less': 1,
    }
    # The crowd region reaches to 120, 100 of 100 x 80 pixels, the other one begins at -5.
    assert dataset.summary == (
        '4 images, 4 used (2 without boxes); dropped: none. 10 boxes, 3 used and 2 regions '
        'to ignore (2 of all reach beyond their image); dropped: 2 of other classes, '
        '1 outside the image, 1 thinner than a pixel, 1 with an area of 0 or less'
    )


def test_with_test_mode_all_boxes_stay_that_a_detection_can_match(build):
    dataset = build(test_mode=True)
    assert [each['bbox'] for each in dataset.get_data_info(1)['instances']] == [
        [-5.0, -5.0, 5.0, 5.0],
        [0.0, 0.0, 9.0, 9.0],
        [0.0, 0.0, 9.0, 9.0],  # area 0 in the file
        [0.0, 0.0, 0.9, 9.0],
    ]
    assert dataset.counts.dropped == {'of other classes': 2, 'outside the image': 1}
    assert dataset.count_objects().tolist() == [4, 1]  # without a crowd and one to ignore
    assert build().count_objects().tolist() == [2, 1]


def test_subclasses_count_their_own_boxes(build, coco):
    class OwnFilter(CocoDataset):
        def filter_data(self):
            return super().filter_data()[:1]

    dataset = build()
    own = OwnFilter(**{key: getattr(dataset, key) for key in ('ann_file', 'metainfo')})
    assert own.count_objects().tolist() == [1, 1]


@pytest.mark.parametrize('test_mode', [False, True])
def test_normalised_boxes_are_told(build, coco, capfd, test_mode):
    for ann in coco['annotations']:
        ann |= {'bbox': [0.1, 0.2, 0.3, 0.4], 'area': 0.12}
    dataset = build(test_mode=test_mode)
    assert dataset.counts.boxes == (6 if test_mode else 0)
    assert 'look normalised (none is above 1): multiply x and width by' in capfd.readouterr().out


@pytest.mark.parametrize(
    ('classes', 'cat_ids', 'labels'),
    [(('cat', 'dog'), [4, 9], [1, 0, 1]), (['dog', 'cow', 'cat'], [9, 1, 4], [0, 2, 0])],
)
def test_labels_follow_the_class_list(build, classes, cat_ids, labels):
    dataset = build(metainfo={'classes': classes})
    assert dataset.cat_ids == cat_ids
    assert dataset.cat2label == {cat_id: label for label, cat_id in enumerate(cat_ids)}
    assert dataset.metainfo['classes'] == tuple(classes)
    assert dataset.get_cat_ids(0) == labels


def test_without_metainfo_the_coco_classes_hold(build):
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == len(set(COCO_PALETTE)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[79]) == ('person', 'toothbrush')
    # All but cat, dog and cow are missing.
    words = r"80 classes .* 77 are not in the file: 'person', .* and 67 more\. .*default is the 80"
    with pytest.raises(ValueError, match=words):
        build(metainfo=None)


@pytest.mark.parametrize(
    ('filter_cfg', 'test_mode', 'ids'),
    [
        (None, False, [30, 10, 20, 40]),
        ({'filter_empty_gt': True}, False, [30, 10]),
        ({'min_size': 31}, False, [30, 10, 20, 40]),
        ({'min_size': 32}, False, [30, 10, 20]),
        ({'filter_empty_gt': True, 'min_size': 32}, True, [30, 10, 20, 40]),
    ],
)
def test_filters(build, filter_cfg, test_mode, ids):
    assert list_ids(build(filter_cfg=filter_cfg, test_mode=test_mode)) == ids


def test_no_image_left_names_filter_and_counts(build):
    words = (
        r'ann.json: 4 images, 0 used; dropped: 2 without objects of the classes '
        r'\(filter_cfg.filter_empty_gt=True\), 2 smaller \(filter_cfg.min_size=500\). 10 boxes, '
        r'0 used .*, 5 of dropped images. filter_cfg is .*; change it, metainfo.classes or the file'
    )
    with pytest.raises(ValueError, match=words):
        build(filter_cfg={'filter_empty_gt': True, 'min_size': 500})


def test_no_image_left_for_want_of_boxes_tells_why(build, coco):
    coco['annotations'] = [ann for ann in coco['annotations'] if ann['category_id'] == 1]
    words = (
        r'2 of 2 boxes cannot be learnt: their classes \(cow\) are not in metainfo.classes: name'
    )
    with pytest.raises(ValueError, match=f'no usable image .*2 of other classes. {words}'):
        build(filter_cfg={'filter_empty_gt': True})
    classes = {'classes': ('cow',)}
    assert list_ids(build(filter_cfg={'filter_empty_gt': True}, metainfo=classes)) == [10, 20]


def test_empty_images_are_counted(build, coco):
    """Neither 20 nor 40 has a cat or dog."""
    dataset = build(filter_cfg={'filter_empty_gt': True})
    assert (dataset.counts.empty, dataset.counts.without_boxes) == (2, 0)
    assert dataset.summary.startswith('4 images, 2 used; dropped: 2 without objects')
    assert build(test_mode=True).summary.startswith('4 images, 4 used (2 without boxes); dropped')
    del coco['annotations']
    assert build(test_mode=True).get_data_info(0)['instances'] == []
    coco['annotations'] = [
        {'id': 1, 'image_id': 20, 'category_id': 4, 'bbox': [0, 0, 0.9, 9]},
        {'id': 2, 'image_id': 40, 'category_id': 4, 'bbox': [0, 0, 9, 9], 'iscrowd': 1},
    ]
    dataset = build(filter_cfg={'filter_empty_gt': True})
    assert list_ids(dataset) == [20, 40]  # kept by a dropped annotation, and by a crowd
    assert [len(dataset.get_data_info(i)['instances']) for i in range(2)] == [0, 1]
    coco['images'] = coco['annotations'] = []
    with pytest.raises(ValueError, match='no usable image in .*ann.json: 0 images, 0 used'):
        build(test_mode=True)


def test_degenerate_boxes_are_named_in_one_warning(build, coco):
    """Of seven thin boxes the first five; boxes of other classes do not matter."""
    thin = {'image_id': 10, 'category_id': 4, 'bbox': [1, 2, 0.5, 9]}
    coco['annotations'] = [
        {'id': 3, 'image_id': 30, 'category_id': 9, 'bbox': [1, 2, 0, 4]},
        {'id': 'x', 'image_id': 30, 'category_id': 9, 'bbox': [1, 2, 3, -4]},
        {'id': 5, 'image_id': 20, 'category_id': 1, 'bbox': [1, 2, 0, 0]},
        *(thin | {'id': number} for number in range(70, 77)),
    ]
    dataset = build()
    assert dataset._defects == (
        "2 without width or height (annotation id 3 of image id 30: [1, 2, 0, 4]; annotation id 'x'"
        ' of image id 30: [1, 2, 3, -4]), 7 thinner than a pixel ('
        + '; '.join(f'annotation id {n} of image id 10: [1, 2, 0.5, 9]' for n in range(70, 75))
        + '; and 2 more)'
    )
    assert dataset.counts.dropped['of other classes'] == 1


@pytest.mark.parametrize(
    ('change', 'ids'),
    [
        ({}, [30, 10, 20, 40]),
        ({30: 0, 10: 5_000_000_000, 20: 3, 40: -7}, [0, 5_000_000_000, 3, -7]),
        ({30: '30', 10: 'b', 20: '', 40: '040'}, ['30', 'b', '', '040']),
        ({30: 10**30, 10: -(10**30), 20: 2.5, 40: 1}, [10**30, -(10**30), 2.5, 1]),
        ({30: 1, 10: '1', 20: 1.5, 40: None}, [1, '1', 1.5, None]),
        ({30: 1.0, 10: False, 20: 'true', 40: 2}, [1.0, False, 'true', 2]),
    ],
)
@pytest.mark.parametrize('first', [0, 10**30, 'a', 0.5])
def test_ids_of_any_type_are_read_back(build, coco, change, ids, first):
    """Also of annotations, from 0 on, and of categories; the boxes stay with their images."""
    for image in coco['images']:
        image['id'] = change.get(image['id'], image['id'])
    names = {9: 'd', 4: 10**25, 1: 0}
    for index, ann in enumerate(coco['annotations']):
        ann['id'] = first + (chr(97 + index) if isinstance(first, str) else index)
        ann['image_id'] = change.get(ann['image_id'], ann['image_id'])
        ann['category_id'] = names[ann['category_id']]
    for category in coco['categories']:
        category['id'] = names[category['id']]
    coco['annotations'].reverse()
    dataset = build()
    assert dataset.cat_ids == [10**25, 'd']
    assert [repr(id_) for id_ in list_ids(dataset)] == [repr(id_) for id_ in ids]
    labels = [dataset.get_cat_ids(index) for index in range(4)]
    assert labels == [[1, 0, 1], [0, 0], [], []]
    assert dataset.get_data_info(0)['instances'][2]['bbox'] == [10, 20, 40, 60]


def test_builds_from_a_config(build, tmp_path):
    build()
    lazy = build(lazy_init=True)
    assert not hasattr(lazy, 'cat_ids')
    assert len(lazy) == 4
    cfg = {
        'type': 'CocoDataset',
        'ann_file': str(tmp_path / 'ann.json'),
        'metainfo': {'classes': ('cow',)},
        'pipeline': [{'type': 'LoadAnnotations', 'with_bbox': True}, {'type': 'PackDetInputs'}],
        'backend_args': None,
    }
    dataset = DATASETS.build(cfg)
    assert dataset.get_data_info(0)['img_path'] == '30.jpg'  # neither data_root nor data_prefix
    sample = dataset[2]['data_samples']
    assert sample.gt_instances.bboxes.tolist() == [[0, 0, 9, 9]]
    assert sample.img_id == 20


# What the config gets wrong


@pytest.mark.parametrize(
    ('kwargs', 'error', 'words'),
    [
        ({'ann_file': 'no.json'}, FileNotFoundError, 'no.json.*data_root and ann_file'),
        ({'ann_file': 'imgs'}, FileNotFoundError, 'data_root and ann_file'),
        ({'data_prefix': {'img': 'gone'}}, FileNotFoundError, 'gone.*data_prefix.img'),
        ({'data_prefix': {'img_path': ''}}, ValueError, "key 'img', got .*img_path"),
        ({'data_prefix': 'imgs/'}, ValueError, r"must be a dict, e\.g\. dict\(img='train/'\), got"),
        (
            {'data_prefix': {'img': None}},
            ValueError,
            r'data_prefix\.img must be a folder, got None',
        ),
        ({'ann_file': ['ann.json']}, ValueError, 'ann_file must be the path of one file; a Conc'),
        ({'data_root': 3}, ValueError, 'data_root must be a path, or None, got 3'),
        ({'metainfo': ('cat', 'dog')}, ValueError, r"dict\(classes=\('cat', 'dog'\)\), got \('cat"),
        (
            {'filter_cfg': {'min_size': 'x'}},
            ValueError,
            r"filter_cfg\.min_size must be .*, got 'x'",
        ),
        ({'indices': 'x'}, ValueError, 'indices must be a number of images or a list of their'),
        ({'filter_cfg': {'minsize': 3}}, ValueError, r"and min_size, got \['minsize'\]"),
        ({'metainfo': {'classes': 'cat'}}, ValueError, r"needs a comma: classes=\('cat',\)"),
        ({'metainfo': {'classes': ('a', 'b', 'a')}}, ValueError, r'names a class twice: a;'),
        ({'metainfo': {'classes': ()}}, ValueError, 'is empty'),
        (
            {'metainfo': {'classes': ('Cat', 'dgo', 'zebra')}},
            ValueError,
            r"ann.json: of the 3 classes .* 3 are not in the file: 'Cat' \(did you mean 'cat'\?\), "
            r"'dgo' \(did you mean 'dog'\?\), 'zebra'. Its categories are dog, cat, cow.",
        ),
    ],
)
def test_wrong_arguments(build, kwargs, error, words):
    with pytest.raises(error, match=words):
        build(**kwargs)


# Image files


def test_the_limit_spreads_evenly(build, coco, tmp_path):
    """Of four images, a limit of 2 looks at the first and the last, 3 at 0, 1 and 3."""
    dataset = build()
    words = r'^2 of 2 .*/30\.jpg .*does not exist; .*/40\.jpg .*does not exist\. Check data_root'
    with pytest.raises(ValueError, match=words):
        dataset.check_image_files(limit=2)
    for number, height in ((30, 80), (10, 80), (20, 81), (40, 31)):
        Image.new('RGB', (100, height)).save(tmp_path / 'imgs' / f'{number}.jpg')
    dataset.check_image_files(limit=3)
    with pytest.raises(ValueError, match=r'^1 of 4 .*/20\.jpg .*is 100x81 .* says 100x80'):
        dataset.check_image_files()
    absent = {'file_name': 'x.jpg', 'width': 9, 'height': 9}
    coco['images'] += [absent | {'id': number} for number in (5, 6, 7, 8, 9, 11)]
    with pytest.raises(ValueError, match=r'^7 of 10 .*; and 2 more\. Check data_root'):
        build().check_image_files()
    build(data_prefix={'img': 'https://example.org/'}).check_image_files()  # nor any on a server


@pytest.mark.parametrize('name', ['../30.jpg', 'a/../../30.jpg', '/etc/passwd', 'link/../x.jpg'])
def test_file_names_stay_in_the_image_folder(build, coco, tmp_path, name):
    (tmp_path / 'elsewhere' / 'deep').mkdir(parents=True)
    (tmp_path / 'imgs' / 'link').symlink_to(tmp_path / 'elsewhere' / 'deep')
    coco['images'][1]['file_name'] = name
    words = rf'1 file names lead out of .*imgs.: .*{name}. \(image id 10\)\. .*allow_outside=True'
    with pytest.raises(ValueError, match=words):
        build()
    info = build(allow_outside=True).get_data_info(1)
    assert info['img_path'] == os.path.join(tmp_path, 'imgs', name)
    # It is for those who own the storage to say where its names may lead.
    remote = {'data_prefix': {'img': 'https://example.org/'}, 'data_root': ''}
    build(**remote, ann_file=f'{tmp_path}/ann.json')


def test_names_and_links_inside_of_the_folder_are_fine(build, coco, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'imgs')
    names = ['a/../30.jpg', f'{tmp_path}/imgs/x.jpg', '..jpg', f'{tmp_path}/link/y.jpg']
    for image, name in zip(coco['images'], names, strict=True):
        image['file_name'] = name
    for folder in ('imgs/', 'link', 'link/../imgs'):
        assert len(build(data_prefix={'img': folder})) == 4


# Real data


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason='no ../shared/data')
def test_coco_mini():
    ann_file = COCO_MINI / 'annotations' / 'instances_val2017.json'
    coco = json.loads(ann_file.read_text())
    dataset = CocoDataset(
        str(ann_file),
        data_prefix={'img': str(COCO_MINI / 'val2017')},
        pipeline=[
            {'type': 'LoadImageFromFile', 'backend_args': None},
            {'type': 'LoadAnnotations', 'with_bbox': True},
            {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True},
            {'type': 'PackDetInputs'},
        ],
        test_mode=True,
    )
    assert list_ids(dataset) == [image['id'] for image in coco['images']]
    assert dataset.cat_ids == sorted(category['id'] for category in coco['categories'])
    dataset.check_image_files()
    crowds = Counter(ann['image_id'] for ann in coco['annotations'] if ann['iscrowd'])
    objects = Counter(ann['image_id'] for ann in coco['annotations'] if not ann['iscrowd'])
    assert len(dataset) == 40
    assert sum(crowds.values()) == 5
    for index, image_id in enumerate(list_ids(dataset)):
        instances = dataset.get_data_info(index)['instances']
        flags = Counter(instance['ignore_flag'] for instance in instances)
        assert (flags[0], flags[1]) == (objects[image_id], crowds[image_id])
    index = list_ids(dataset).index(next(iter(crowds)))
    sample = dataset[index]['data_samples']
    (crowd,) = [a for a in coco['annotations'] if a['iscrowd'] and a['image_id'] == sample.img_id]
    x, y, w, h = crowd['bbox']
    scale_w, scale_h = sample.scale_factor
    expected = [x * scale_w, y * scale_h, (x + w) * scale_w, (y + h) * scale_h]
    assert sample.ignored_instances.bboxes[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert len(sample.gt_instances) == objects[sample.img_id]


def test_several_annotation_files_as_advised(build, tmp_path):
    with pytest.raises(ValueError, match='a ConcatDataset has one dataset per file'):
        build(ann_file=['ann.json', 'ann.json'])
    common = dict(type='CocoDataset', data_root=str(tmp_path), data_prefix={'img': 'imgs/'})
    each = {**common, 'ann_file': 'ann.json', 'metainfo': {'classes': ('cat', 'dog')}}
    each = DATASETS.build(each)
    assert len(DATASETS.build(dict(type='ConcatDataset', datasets=[each, each]))) == 8


@pytest.mark.parametrize('kind', [str, Path])
def test_the_home_folder_and_path_objects(kind, build, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'home.txt').write_text('cat\ndog\n')
    dataset = build(
        data_root=kind('~'), ann_file=kind('~/ann.json'), metainfo={'classes': ('cat',)}
    )
    assert dataset.ann_file == str(tmp_path / 'ann.json')
    assert dataset.get_data_info(0)['img_path'] == str(tmp_path / 'imgs/30.jpg')
    dataset = build(data_root=None, ann_file='~/ann.json', data_prefix={'img': kind('~/imgs')})
    assert dataset.get_data_info(0)['img_path'] == str(tmp_path / 'imgs/30.jpg')


def test_metainfo_as_in_the_release_candidates(build):
    metainfo = {'CLASSES': ('dog', 'cow'), 'PALETTE': [(1, 2, 3), (4, 5, 6)]}
    dataset = build(metainfo=metainfo)
    assert dataset.metainfo == {'classes': ('dog', 'cow'), 'palette': [(1, 2, 3), (4, 5, 6)]}
    assert list(metainfo) == ['CLASSES', 'PALETTE']
    assert dataset.cat_ids == [9, 1]

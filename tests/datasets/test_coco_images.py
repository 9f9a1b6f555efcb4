"""The infos made of tensors against a literal reading, in this process and in others."""

from __future__ import annotations

import io
import json
import os.path as osp
import pickle
import random
from collections import Counter
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import DataLoader

from ghmdet.datasets import CocoDataset
from ghmdet.datasets.coco_images import ValueColumn

CLASSES = ('cat', 'dog')
CAT_IDS = {4: 0, 'd': 1}


def draw_coco(seed: int) -> dict:
    rng = random.Random(seed)
    image_ids = [3, '3', -1, 2**65, 2.5, *range(10, 50)]
    images = [
        {
            'id': id_,
            'file_name': rng.choice([f'{id_}.jpg', f'sub/{id_} \u00e9"\\.png', f'/abs/{id_}.jpg']),
            'width': rng.choice([100, 64.5, 31, 640]),
            'height': rng.choice([80, 32, 90.0]),
        }
        for id_ in image_ids
    ]
    annotations = []
    for _ in range(300):
        ann = {
            'image_id': rng.choice(image_ids[:30]),
            'category_id': rng.choice([4, 4, 'd', 8]),
            'bbox': [
                rng.choice([-5, 0, 3.25, 99.99, 200]),
                rng.choice([-40, 1, 0.1]),
                rng.choice([-7, 0.5, 1, 7, 20.2]),
                rng.choice([0.99, 8, 40, 33.33]),
            ],
        }
        for key, values in (
            ('area', [None, 0, 12.5, -1]),
            ('iscrowd', [0, 1, True, None]),
            ('ignore', [0, 1, False]),
        ):
            if rng.random() < 0.3:
                ann[key] = rng.choice(values)
        annotations.append(ann)
    categories = [{'id': 8, 'name': 'cow'}, {'id': 'd', 'name': 'dog'}, {'id': 4, 'name': 'cat'}]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def drop_reason(ann: dict, image: dict) -> str | None:
    x, y, w, h = ann['bbox']
    area = ann.get('area')
    if ann['category_id'] not in CAT_IDS:
        return 'of other classes'
    if w <= 0 or h <= 0:
        return 'without width or height'
    if min(x + w, image['width']) <= max(x, 0) or min(y + h, image['height']) <= max(y, 0):
        return 'outside the image'
    if w < 1 or h < 1:
        return 'thinner than a pixel'
    return 'with an area of 0 or less' if (w * h if area is None else area) <= 0 else None


def read_literally(coco: dict, folder: str, filter_cfg: dict) -> tuple[list[dict], Counter]:
    """Image by image and box by box, as the format reads."""
    infos, dropped = [], Counter()
    for image in coco['images']:
        anns = [ann for ann in coco['annotations'] if ann['image_id'] == image['id']]
        instances = []
        for ann in anns:
            reason = drop_reason(ann, image)
            if reason:
                dropped[reason] += 1
                continue
            x, y, w, h = map(float, ann['bbox'])
            instances.append(
                {
                    'bbox': [x, y, x + w, y + h],
                    'bbox_label': CAT_IDS[ann['category_id']],
                    'ignore_flag': int(bool(ann.get('iscrowd') or ann.get('ignore'))),
                }
            )
        empty = not any(ann['category_id'] in CAT_IDS for ann in anns)
        small = min(image['width'], image['height']) < filter_cfg.get('min_size', 0)
        if small or (empty and filter_cfg.get('filter_empty_gt')):
            continue
        infos.append(
            {
                'img_id': image['id'],
                'img_path': osp.join(folder, image['file_name']),
                'height': image['height'],
                'width': image['width'],
                'instances': instances,
                'sample_idx': len(infos),
            }
        )
    return infos, dropped


def pass_on(info: dict) -> dict:
    """Be a pipeline that a spawned worker can import."""
    return info


@pytest.fixture
def build(tmp_path):
    def build_dataset(cls: type = CocoDataset, seed: int = 0, **kwargs) -> CocoDataset:
        (tmp_path / 'ann.json').write_text(json.dumps(draw_coco(seed)))
        return cls(
            'ann.json',
            data_root=str(tmp_path),
            metainfo={'classes': CLASSES},
            pipeline=[pass_on],
            allow_outside=True,
            **kwargs,
        )

    return build_dataset


def list_infos(dataset) -> list[dict]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]


@pytest.mark.parametrize('seed', [0, *(pytest.param(i, marks=pytest.mark.long) for i in (1, 2, 3))])
@pytest.mark.parametrize(
    'filter_cfg', [{}, {'filter_empty_gt': True}, {'filter_empty_gt': True, 'min_size': 32}]
)
def test_infos_are_those_of_a_literal_reading(build, tmp_path, seed, filter_cfg):
    expected, dropped = read_literally(draw_coco(seed), str(tmp_path), filter_cfg)
    assert len(dropped) == 5
    for serialize_data in (True, False):
        dataset = build(seed=seed, filter_cfg=filter_cfg, serialize_data=serialize_data)
        # repr also tells 80 from 80.0 and 1 from True.
        assert repr(list_infos(dataset)) == repr(expected)
        assert dataset.counts.dropped == dropped


class OwnParse(CocoDataset):
    def parse_data_info(self, raw_data_info: dict) -> dict:
        info = super().parse_data_info(raw_data_info)
        return info | {'count': len(raw_data_info['raw_ann_info'])}


class OwnLoad(CocoDataset):
    def load_data_list(self) -> list[dict]:
        infos = super().load_data_list()
        for info in infos:
            info['count'] = 1
        return infos


class OwnFilter(CocoDataset):
    def filter_data(self) -> list[dict]:
        infos = super().filter_data()
        for info in infos:
            info['count'] = 2
        return infos[5:]


@pytest.mark.parametrize('serialize_data', [True, False])
def test_subclasses_work_on_a_list_of_dicts(build, tmp_path, serialize_data):
    filter_cfg = {'filter_empty_gt': True}
    expected, dropped = read_literally(draw_coco(0), str(tmp_path), filter_cfg)
    counts = Counter(ann['image_id'] for ann in draw_coco(0)['annotations'])
    kwargs = {'filter_cfg': filter_cfg, 'serialize_data': serialize_data}
    parsed = build(OwnParse, **kwargs)
    assert list_infos(parsed) == [info | {'count': counts[info['img_id']]} for info in expected]
    assert parsed.counts.dropped == dropped
    assert list_infos(build(OwnLoad, **kwargs)) == [info | {'count': 1} for info in expected]
    assert list_infos(build(OwnFilter, **kwargs)) == [
        info | {'count': 2, 'sample_idx': index} for index, info in enumerate(expected[5:])
    ]


class OwnFormat(CocoDataset):
    def load_data_list(self) -> list[dict]:
        instance = {'bbox': [0, 0, 9, 9], 'bbox_label': 0, 'ignore_flag': 0}
        size = {'width': 50, 'height': 40}
        return [{'img_id': i, 'instances': [instance] * i} | size for i in range(3)]


def test_a_subclass_may_read_another_format(build):
    infos = list_infos(build(OwnFormat, filter_cfg={'filter_empty_gt': True}))
    assert [(info['img_id'], info['sample_idx']) for info in infos] == [(1, 0), (2, 1)]


def test_indices_and_subsets_are_those_of_a_list(build):
    dataset = build()
    ids = [image['id'] for image in draw_coco(0)['images']]
    last = dataset.get_data_info(-1)
    assert (last['img_id'], last['sample_idx']) == (ids[-1], len(ids) - 1)
    with pytest.raises(IndexError):
        dataset.get_data_info(len(ids))
    whole = {info['img_id']: info for info in list_infos(dataset)}
    for indices, expected in (
        (3, ids[:3]),
        (-2, ids[-2:]),
        ([4, -1, 0, 4], [ids[4], ids[-1], ids[0], ids[4]]),
        ([], []),
    ):
        in_place = build()
        in_place.get_subset_(indices)
        for part in (dataset.get_subset(indices), in_place, build(indices=indices)):
            assert [info['img_id'] for info in list_infos(part)] == expected
            for info in list_infos(part):
                assert info['instances'] == whole[info['img_id']]['instances']
    dataset.full_init()
    assert len(dataset) == len(ids)
    for wrapped in (RepeatDataset(dataset, 2), ConcatDataset([dataset, build()])):
        assert wrapped.get_data_info(len(ids) + 3)['img_id'] == ids[3]
    # A class in fewer images than the threshold makes its images count double.
    has_dog = lambda info: any(instance['bbox_label'] for instance in info['instances'])  # noqa: E731
    with_dog = [id_ for id_, info in whole.items() if has_dog(info)]
    balanced = ClassBalancedDataset(dataset, oversample_thr=4 * len(with_dog) / len(ids))
    counts = Counter(balanced.get_data_info(i)['img_id'] for i in range(len(balanced)))
    assert all(counts[id_] >= 2 for id_ in with_dog)


@pytest.mark.parametrize(
    'method', ['fork', 'forkserver', pytest.param('spawn', marks=pytest.mark.long)]
)
def test_workers_see_the_same_infos(build, method):
    dataset = build()
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=method)
    assert repr(list(loader)) == repr(list_infos(dataset))


def test_another_process_gets_the_memory_itself(build):
    images = build().data_list
    tensors = [images.ends, images.bboxes, images.labels, images.ignore_flags, images.has_objects]
    for column in images.fields.values():
        tensors += [column.values] if column.ends is None else [column.values, column.ends]
    assert not any(tensor.is_shared() for tensor in tensors)
    before = repr(list(images))
    buffer = io.BytesIO()
    ForkingPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(images)
    assert all(tensor.is_shared() for tensor in tensors)
    assert repr(list(images)) == before
    # Handles only: the boxes themselves are not in it.
    other = pickle.loads(buffer.getvalue())
    images.bboxes[0, 0] = -123.5
    assert other.bboxes[0, 0] == -123.5


def test_values_that_fit_are_integers_and_others_text():
    assert ValueColumn.pack([3, -(2**63)]).values.dtype == torch.int64
    for values in ([2**63], [True, 1], [1, 2.0], ['\u00e9', None], ['']):
        column = ValueColumn.pack(values)
        assert column.values.dtype == torch.uint8
        assert repr(column.tolist()) == repr(values)
    assert ValueColumn.pack([]).tolist() == []

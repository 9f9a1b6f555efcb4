"""tools/analysis_tools/ghm_report.py: counts, outliers and their pictures."""

import copy
import json
import random
from pathlib import Path
from types import SimpleNamespace

import cv2
import ghm_report
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from results import outliers

from ghmdet.boxes import DeltaXYWHBBoxCoder
from ghmdet.datasets import draw_shapes
from ghmdet.losses import GHMC, GHMR
from ghmdet.registry import DATASETS, MODELS
from ghmdet.reports.ghm import GradientCounts
from ghmdet.structures import DetDataSample, InstanceData
from tests import golden
from tests.detectors import randomize
from tests.e2e.conftest import write_config
from tests.models.conftest import golden_model as golden_model

CLASSES = 'circle', 'square', 'triangle'


# --- counts ---------------------------------------------------------------------------------------


def test_counts_of_golden_weights_are_the_buffers_of_a_training_step(golden_model):
    """Each level is a call: acc <- 0.75 acc + 0.25 counts where there are any (0.7, 0.3 of boxes).

    The loss of the report keeps the buffers that it had, all 0.
    """
    model = golden_model('retinanet_ghm_r50_fpn_1x_coco')
    batch = golden.model_batch(DetDataSample, InstanceData)
    levels = outliers.read_levels(model.eval(), copy.deepcopy(batch))
    head = model.bbox_head
    cls, bbox = GradientCounts(head.loss_cls, GHMC()), GradientCounts(head.loss_bbox, GHMR())
    for number, each in enumerate(levels):
        cls.add(str(number), each.scores, each.labels, each.label_weights)
        bbox.add(str(number), each.deltas, each.bbox_targets, each.bbox_weights)
    data = model.train().data_preprocessor(batch, True)
    head.loss_cls.bin_records = []
    model.loss(data['inputs'], data['data_samples'])
    found = cls.content()['counts']
    assert found == [counts.tolist() for counts, _ in head.loss_cls.bin_records]
    assert np.sum(found) > 1_000_000
    for part, loss in ((cls, head.loss_cls), (bbox, head.loss_bbox)):
        running = torch.zeros(loss.bins)
        for counts in torch.tensor(part.content()['counts'], dtype=torch.float):
            moved = loss.momentum * running + (1 - loss.momentum) * counts
            running = torch.where(counts > 0, moved, running)
        assert torch.equal(running, loss.acc_sum)
        assert running.sum() > 10


def test_golden_weights_without_momentum_are_flat_after_harmonising(golden_model):
    """N entries in n bins: N / n in each, in each level."""
    model = golden_model('retinanet_ghm_r50_fpn_1x_coco').eval()
    levels = outliers.read_levels(model, golden.model_batch(DetDataSample, InstanceData))
    part = GradientCounts(GHMC(bins=30), GHMC())
    for number, each in enumerate(levels):
        part.add(str(number), each.scores, each.labels, each.label_weights)
    content = part.content()
    for counts, harmonised in zip(content['counts'], content['harmonised'], strict=True):
        filled = np.array(counts) > 0
        expected = np.where(filled, sum(counts) / filled.sum(), 0)
        assert harmonised == pytest.approx(expected.tolist(), rel=1e-6)


# --- outliers worked by hand ----------------------------------------------------------------------


def entries(rows):
    """A level of 2 classes; rows of box, the two p, label, weight and object + 1."""
    boxes, scores, labels, weights, inds = zip(*rows, strict=True)
    none = torch.zeros(len(rows), 4)
    return outliers.LevelEntries(
        scores=torch.tensor(scores).logit(),
        deltas=none,
        priors=torch.tensor(boxes).float(),
        labels=torch.tensor(labels),
        label_weights=torch.tensor(weights).float(),
        bbox_targets=none,
        bbox_weights=none,
        gt_inds=torch.tensor(inds),
    )


FIRST, SECOND, CROWD, SPOT = [0, 0, 20, 20], [40, 0, 60, 20], [80, 80, 100, 100], [0, 60, 20, 80]
LEVELS = [
    entries(
        [
            (FIRST, [0.9, 0.1], 0, 1, 1),
            (FIRST, [0.7, 0.3], 0, 1, 1),
            (FIRST, [0.98, 0.1], 2, 1, 0),  # background beside the first object
            (SPOT, [0.1, 0.6], 2, 1, 0),
            ([0, 65, 20, 85], [0.8, 0.1], 2, 1, 0),  # IoU 0.6 with the one above
            ([30, 90, 130, 130], [0.2, 0.3], 2, 1, 0),  # reaches out of the image
            ([70, 30, 90, 50], [0.1, 0.99], 2, 0, -1),
            ([82, 82, 98, 98], [0.1, 0.97], 2, 1, 0),  # in the crowd region
        ]
    ),
    entries([(SECOND, [0.9, 0.05], 1, 1, 3)]),
]


def add_image(top=50):
    model = SimpleNamespace(
        bbox_head=SimpleNamespace(bbox_coder=DeltaXYWHBBoxCoder(), num_classes=2),
        dataset_meta={'classes': ('cat', 'dog')},
    )
    found = outliers.Outliers(model, top)
    sample = DetDataSample(metainfo=dict(img_shape=(100, 100), scale_factor=(0.5, 0.25)))
    boxes = torch.tensor([FIRST, [0, 90, 5, 95], SECOND]).float()
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 0, 1]))
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([CROWD]).float())
    scale = [2, 4, 2, 4]
    labels = [(FIRST, 0, 0), (CROWD, 1, 1), ([0, 90, 5, 95], 0, 0), (SECOND, 1, 0)]
    instances = [
        dict(bbox=np.multiply(box, scale).tolist(), bbox_label=label, ignore_flag=flag)
        for box, label, flag in labels
    ]
    found.add(0, dict(img_path='a/x.jpg', img_id=7, instances=instances), LEVELS, sample)
    return found.content([None])


def test_the_norm_of_an_annotation_is_the_mean_of_its_positive_anchors():
    content = add_image()
    wrong, right = content['annotations']
    assert (wrong['class'], wrong['seen_class']) == ('dog', 'cat')
    assert (wrong['norm'], wrong['seen_score']) == pytest.approx((0.95, 0.9))
    assert wrong['bbox'] == [80, 0, 120, 80]
    assert (right['class'], right['seen_class'], right['anchors']) == ('cat', 'cat', 2)
    assert (right['norm'], right['seen_score']) == pytest.approx((0.2, 0.8))
    assert (right['image'], right['image_id']) == ('a/x.jpg', 7)
    assert content['without_positive_anchor'] == 1


def test_background_has_one_entry_for_a_spot_without_an_annotation():
    spot, large = add_image()['background']
    assert (spot['seen_class'], spot['norm']) == ('cat', pytest.approx(0.8))
    assert spot['bbox'] == [0, 260, 40, 340]
    # Clipped to the image, 100 pixels of the input, and in its own pixels.
    assert (large['seen_class'], large['norm']) == ('dog', pytest.approx(0.3))
    assert large['bbox'] == [60, 360, 200, 400]


def test_only_the_top_are_kept():
    content = add_image(top=1)
    assert [row['class'] for row in content['annotations']] == ['dog']
    assert len(content['background']) == 1
    assert content['without_positive_anchor'] == 1


# --- the tool -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """A config, with a set whose ids are texts in another order, and a random checkpoint."""
    folder = tmp_path_factory.mktemp('tiny')
    draw_shapes(folder / 'shapes', dict(train=8, val=3), seed=3)
    file = folder / 'shapes' / 'annotations' / 'train.json'
    content = json.loads(file.read_text())
    random.Random(0).shuffle(content['annotations'])
    for number, each in enumerate(content['annotations']):
        each['id'] = f'n{number}'
    next(each for each in content['annotations'] if not each['iscrowd'])['bbox'][2] = 0  # left out
    file.write_text(json.dumps(content))
    config = write_config(folder / 'tiny.py', folder / 'shapes')
    model = MODELS.build(Config.fromfile(config).model)
    randomize(model)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'tiny.pth')
    return folder


def report(tiny, *options, config='tiny.py'):
    ghm_report.main([str(tiny / config), str(tiny / 'tiny.pth'), *map(str, options)])


@pytest.fixture(scope='module')
def made(tiny):
    """The report of all images."""
    report(tiny, '--top', 1000, '--compare', tiny / 'tiny.pth')
    return json.loads((tiny / 'ghm_report' / 'ghm_report.json').read_text())


def test_counts_are_those_of_the_losses_on_the_training_set(tiny, made):
    """The pipeline of the training has no random step here."""
    cfg = Config.fromfile(tiny / 'tiny.py')
    with DefaultScope.overwrite_default_scope('ghmdet'):
        model, data = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    model.load_state_dict(torch.load(tiny / 'tiny.pth')['state_dict'])
    model.eval()
    losses = dict(loss_cls=model.bbox_head.loss_cls, loss_bbox=model.bbox_head.loss_bbox)
    for loss in losses.values():
        loss.bin_records = []
    with torch.no_grad():
        for item in data:
            batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
            model(**model.data_preprocessor(batch, False), mode='loss')
    assert made['images'] == 8
    for name, loss in losses.items():
        records = [torch.stack(each) for each in zip(*loss.bin_records, strict=True)]
        counts, weights = (each.unflatten(0, (8, 3)) for each in records)
        part = made['models'][0][name]
        assert part['levels'] == ['stride 8', 'stride 16', 'stride 32']
        assert part['counts'] == counts.sum(0).tolist()
        assert part['own_loss'] is True
        np.testing.assert_allclose(part['harmonised'], (counts * weights).sum(0), rtol=1e-5)
    assert made['models'][1] == made['models'][0]


def test_annotations_have_the_ids_of_the_file(tiny, made):
    content = json.loads((tiny / 'shapes' / 'annotations' / 'train.json').read_text())
    images = {each['id']: each['file_name'] for each in content['images']}
    of_file = {each['id']: each for each in content['annotations']}
    names = {each['id']: each['name'] for each in content['categories']}
    rows = made['annotations']
    assert len({row['annotation_id'] for row in rows}) == len(rows) > 10
    for row in rows:
        each = of_file[row['annotation_id']]
        x, y, w, h = each['bbox']
        assert row['bbox'] == pytest.approx([x, y, x + w, y + h])
        assert row['class'] == names[each['category_id']]
        assert Path(row['image']).name == images[each['image_id']]
        assert each['iscrowd'] == 0
    crowds = sum(each['iscrowd'] for each in content['annotations'])
    assert len(rows) + made['without_positive_anchor'] == len(of_file) - crowds - 1


def test_pictures_are_of_the_boxes(tiny, made):
    folder = tiny / 'ghm_report'
    for kind in ('annotations', 'background'):
        files = sorted((folder / kind).glob('*.jpg'))
        assert len(files) == len(made[kind])
        sheet = cv2.imread(str(folder / f'{kind}.jpg'))
        assert sheet.shape == (-(-len(files) // 6) * 284, 6 * 248, 3)
    row = made['annotations'][0]
    assert files
    picture = cv2.imread(str(sorted((folder / 'annotations').glob('*.jpg'))[0])).astype(int)
    yellow = (picture[..., 2] - picture[..., 0] > 100) & (picture[..., 1] - picture[..., 0] > 100)
    rows, columns = np.nonzero(yellow[36:])
    w, h = row['bbox'][2] - row['bbox'][0], row['bbox'][3] - row['bbox'][1]
    sides = np.ptp(columns), np.ptp(rows)
    assert max(sides) == pytest.approx(240 / 3, abs=8)
    assert sides[0] / sides[1] == pytest.approx(w / h, rel=0.15)
    assert cv2.imread(str(folder / 'ghm_report.png')).shape == (990, 1650, 3)


def test_some_images_of_the_other_split(tiny, tmp_path, capsys):
    out = tmp_path / 'out'
    for _ in range(2):
        report(tiny, '--split', 'val', '--images', 2, '--out-dir', out, '--top', 3)
        pictures = [file.name for file in out.glob('annotations/*.jpg')]
        assert len(pictures) == 3
    content = json.loads((out / 'ghm_report.json').read_text())
    assert {Path(row['image']).parent.name for row in content['annotations']} == {'val'}
    assert content['images'] == 2
    text = capsys.readouterr().out
    row = content['annotations'][0]
    assert f'{row["norm"]:.3f}  {row["class"]}, model: {row["seen_class"]}' in text
    assert f'annotation {row["annotation_id"]}' in text
    report(tiny, '--split', 'val', '--images', 2, '--out-dir', out, '--top', 0)
    assert sorted(file.name for file in out.rglob('*') if file.is_file()) == [
        'ghm_report.json',
        'ghm_report.png',
    ]


def test_damaged_images_are_left_out(tiny, tmp_path, capsys):
    draw_shapes(tmp_path / 'shapes', dict(train=2, val=1), seed=3)
    (first, second) = sorted((tmp_path / 'shapes' / 'train').iterdir())
    first.write_bytes(first.read_bytes()[:500])
    (tmp_path / 'tiny.pth').write_bytes((tiny / 'tiny.pth').read_bytes())
    write_config(tmp_path / 'tiny.py', tmp_path / 'shapes')
    report(tmp_path)
    assert f'1 images could not be used, the first: image {first}' in capsys.readouterr().out
    second.write_bytes(b'')
    with pytest.raises(ValueError, match='no image could be used, the first: '):
        report(tmp_path)


def test_a_model_with_another_loss_is_counted_too(tiny, tmp_path):
    """Its checkpoint has no running counts; 30 and 10 bins, weights of each call."""
    text = "model = dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='CrossEntropyLoss', "
    text += "use_sigmoid=True), loss_bbox=dict(_delete_=True, type='L1Loss')))"
    (tiny / 'plain.py').write_text(f"_base_ = 'tiny.py'\n{text}")
    report(tiny, '--out-dir', tmp_path, '--images', 1, config='plain.py')
    (model,) = json.loads((tmp_path / 'ghm_report.json').read_text())['models']
    for name, bins in (('loss_cls', 30), ('loss_bbox', 10)):
        assert model[name]['own_loss'] is False
        assert len(model[name]['edges']) == bins + 1
        assert model[name]['momentum'] == 0


@pytest.mark.follows('Labels are indices in these lists: use the config')
def test_classes_of_the_checkpoint_are_those_of_the_data(tiny, tmp_path):
    names = 'square', 'circle', 'triangle'
    extra = '\nfor each in (train_dataloader, val_dataloader, test_dataloader):\n'
    extra += f'    each["dataset"]["metainfo"] = dict(classes={names})\n'
    write_config(tiny / 'other.py', tiny / 'shapes', extra)
    with pytest.raises(ValueError, match=r'tiny.pth: 2 of 3 classes differ: number 0 is .circle.'):
        report(tiny, '--out-dir', tmp_path, config='other.py')
    report(tiny, '--out-dir', tmp_path, '--images', 1)
    assert (tmp_path / 'ghm_report.json').is_file()


def test_a_diverged_checkpoint(tiny, tmp_path):
    checkpoint = torch.load(tiny / 'tiny.pth')
    checkpoint['state_dict']['bbox_head.retina_cls.bias'][0] = float('nan')
    torch.save(checkpoint, tmp_path / 'tiny.pth')
    write_config(tmp_path / 'tiny.py', tiny / 'shapes')
    with pytest.raises(ValueError, match=r'the output for .*train.* is not finite'):
        report(tmp_path)


@pytest.mark.follows('--images must be at least 1, and --top at least 0')
def test_numbers_are_checked(tiny, tmp_path, capsys):
    for option in (['--images', '0'], ['--top', '-1']):
        with pytest.raises(SystemExit):
            report(tiny, *option)
        assert '--images must be at least 1, and --top at least 0' in capsys.readouterr().err
    report(tiny, '--images', 1, '--top', 0, '--out-dir', tmp_path)


def test_the_report_of_an_address_is_in_the_current_folder():
    assert ghm_report.default_folder('https://host/x.pth') == Path('ghm_report')
    assert ghm_report.default_folder('runs/a/x.pth') == Path('runs/a/ghm_report')

"""Advice of constructors: the arguments that their messages allow are accepted."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler

from ghmdet.boxes.anchor_generator import AnchorGenerator
from ghmdet.boxes.postprocess import check_test_cfg
from ghmdet.datasets import CocoDataset
from ghmdet.datasets.samplers import AspectRatioBatchSampler
from ghmdet.datasets.transforms import LoadAnnotations, LoadImageFromFile, PackDetInputs
from ghmdet.engine.amp import AmpOptimWrapper, apply_amp
from ghmdet.evaluation import CocoMetric
from ghmdet.losses import GHMC, FocalLoss
from ghmdet.models.data_preprocessor import DetDataPreprocessor
from ghmdet.models.retina_head import RetinaHead
from ghmdet.registry import MODELS, TASK_UTILS
from ghmdet.visualization.drawing import DetLocalVisualizer
from tests.advice import advice
from tests.advice.conftest import says
from tests.detectors import detector_cfg

ANCHORS = dict(type='AnchorGenerator', strides=[8, 16], ratios=[1.0])
OCTAVE = dict(octave_base_scale=4, scales_per_octave=3)
NMS = dict(type='nms', iou_threshold=0.5)
BOXES = dict(gt_bboxes=np.zeros((2, 4)), gt_bboxes_labels=np.zeros(2), img=np.zeros((4, 4, 3)))
LAZY = dict(ann_file='a.json', lazy_init=True)
PIXELS = torch.zeros(3, 8, 8, dtype=torch.uint8)
NORMALIZED = dict(mean=[1, 2, 3], std=[1, 1, 1])


def anchors(**kwargs):
    return TASK_UTILS.build(ANCHORS | kwargs)


def assigner(**kwargs):
    return TASK_UTILS.build(dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4) | kwargs)


def coder(**kwargs):
    return TASK_UTILS.build(dict(type='DeltaXYWHBBoxCoder') | kwargs)


def resnet(**kwargs):
    return MODELS.build(dict(type='ResNet', depth=18) | kwargs)


def fpn(**kwargs):
    cfg = dict(type='FPN', in_channels=[4, 8], out_channels=4, num_outs=3, add_extra_convs=True)
    return MODELS.build(cfg | kwargs)


def levels(num_outs):
    """The anchors of the maps that a neck gives."""
    maps = fpn(num_outs=num_outs)([torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 4, 4)])
    return anchors(scales=[4.0]).grid_priors([map_.shape[2:] for map_ in maps])


def pyramid(out_indices):
    backbone = resnet(num_stages=2, out_indices=out_indices)
    return fpn(in_channels=[64, 128])(backbone(torch.zeros(1, 3, 32, 32)))


def preprocess(*images):
    return DetDataPreprocessor(**NORMALIZED)(dict(inputs=list(images)))


def head(**kwargs):
    return RetinaHead(3, 4, stacked_convs=0, anchor_generator=ANCHORS | kwargs)


def pack(flags):
    return PackDetInputs(meta_keys=())(BOXES | dict(gt_ignore_flags=np.zeros(flags)))


def detect(mode, **kwargs):
    return MODELS.build(detector_cfg())(torch.zeros(1, 3, 128, 128), mode=mode, **kwargs)


class Sizes:
    """A dataset for AspectRatioBatchSampler."""

    def __len__(self):
        return 2

    def get_data_info(self, index):
        return dict(width=1, height=1)


def group(dataset):
    return list(AspectRatioBatchSampler(DefaultSampler(dataset, shuffle=False), 2))


def set_classes(classes):
    CocoMetric().dataset_meta = dict(classes=classes)


def reduce(**kwargs):
    return FocalLoss()(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), **kwargs)


def lose(labels, columns=2, weight=None):
    weight = None if weight is None else torch.tensor(weight)
    return FocalLoss()(torch.zeros(len(labels), columns), torch.tensor(labels), weight)


def make(kind, **fixed):
    """A constructor for the table."""
    return lambda **kwargs: kind(**fixed | kwargs)


def amp(**kwargs):
    weights = torch.nn.Linear(1, 1).parameters()
    return AmpOptimWrapper(optimizer=torch.optim.SGD(weights, lr=0.1), **kwargs)


def choose_amp(kind):
    apply_amp(Config(dict(optim_wrapper=dict(type=kind, optimizer=dict(type='SGD', lr=0.1)))))


@TASK_UTILS.register_module(force=True)
class UnequalAnchors(AnchorGenerator):
    """Has one anchor per cell on the first level, two on the second."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.num_base_priors = [1, 2]


@pytest.mark.parametrize(
    ('part', 'build', 'wrong', 'right'),
    [
        # --- boxes
        advice('set either `scales` or both', anchors, {}, [dict(scales=[4.0]), OCTAVE]),
        advice(
            '{} base_sizes; set one per level',
            anchors,
            OCTAVE | dict(base_sizes=[4]),
            [OCTAVE | dict(base_sizes=[4, 8])],
        ),
        advice(
            'anchor_generator.{} must be positive numbers, at least one',
            anchors,
            OCTAVE | dict(ratios=[]),
            [OCTAVE | dict(ratios=[0.5])],
        ),
        advice('set neck.num_outs to the number of strides', levels, (3,), [(2,)]),
        advice(
            'bbox_coder needs four target_means and four positive target_stds',
            coder,
            dict(target_stds=[0.1, 0.1, 0.2]),
            [dict(target_stds=[0.1, 0.1, 0.2, 0.2])],
        ),
        advice(
            'or -1 to turn it off',
            assigner,
            dict(ignore_iof_thr=2),
            [dict(ignore_iof_thr=-1), dict(ignore_iof_thr=0.5)],
        ),
        advice(
            "e.g. dict(type='nms', iou_threshold=0.5)",
            check_test_cfg,
            (dict(nms='nms', max_per_img=1),),
            [(dict(nms=NMS, max_per_img=1),)],
        ),
        advice(
            "model.test_cfg.nms.type must be 'nms'",
            check_test_cfg,
            (dict(nms=NMS | dict(type='soft_nms'), max_per_img=1),),
            [(dict(nms=NMS, max_per_img=1),)],
        ),
        # --- losses
        advice(
            '{} must be {}, got {}',
            make(GHMC, use_sigmoid=True),
            dict(bins=0),
            [dict(bins=1)],
        ),
        advice('use labels.long()', lose, ([0.0],), [([0],)]),
        advice(
            'expected labels from 0 to {} for pred (n, {})',
            lose,
            ([0, 3],),
            [([0, 2],), ([0, 3], 3), ([0, 3], 2, [1.0, 0.0])],
        ),
        advice(
            '.reduction must be one of ',
            FocalLoss,
            dict(reduction='avg'),
            [dict(reduction=name) for name in ('none', 'mean', 'sum')],
        ),
        advice(
            "with 'sum' leave it out",
            reduce,
            dict(reduction_override='sum', avg_factor=2),
            [dict(reduction_override='sum'), dict(reduction_override='mean', avg_factor=2)],
        ),
        # --- models
        advice('backbone.depth must be one of ', resnet, dict(depth=20), [dict(depth=34)]),
        advice(
            'backbone.num_stages must be 1 to 4',
            resnet,
            dict(num_stages=5),
            [dict(num_stages=n, out_indices=(n - 1,)) for n in (1, 4)],
        ),
        advice(
            'backbone.out_indices must be stages 0 to ',
            resnet,
            dict(num_stages=2),
            [dict(num_stages=2, out_indices=(0, 1))],
        ),
        advice(
            "backbone.style must be 'pytorch' or 'caffe'",
            resnet,
            dict(style='tf'),
            [dict(style='pytorch'), dict(style='caffe')],
        ),
        advice(
            'backbone.frozen_stages must be -1 to ',
            resnet,
            dict(frozen_stages=5),
            [dict(frozen_stages=-1), dict(frozen_stages=4)],
        ),
        advice(
            'neck.add_extra_convs must be True, False or one of ',
            fpn,
            dict(add_extra_convs='on_map'),
            [
                dict(add_extra_convs=each)
                for each in (True, False, 'on_input', 'on_lateral', 'on_output')
            ],
        ),
        advice('make backbone.out_indices agree', pyramid, ((1,),), [((0, 1),)]),
        advice(
            'all levels must have the same number of anchors per cell',
            head,
            dict(type='UnequalAnchors', scales=[4.0]),
            [dict(scales=[4.0])],
        ),
        advice(
            'batch_augments must be a list, e.g. ',
            DetDataPreprocessor,
            dict(batch_augments=dict(type='BatchFixedSizePad', size=(8, 8))),
            [
                dict(batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024))]),
                dict(batch_augments=None),
            ],
        ),
        advice(
            'sync_batch_shape must be True, False or None',
            DetDataPreprocessor,
            dict(sync_batch_shape='yes'),
            [dict(sync_batch_shape=each) for each in (True, False, None)],
        ),
        advice(
            'inputs must be images (channels, h, w) with the same number of channels',
            preprocess,
            (PIXELS, PIXELS[:1]),
            [(PIXELS, PIXELS)],
        ),
        advice(
            "mode must be 'loss', 'predict' or 'tensor'",
            detect,
            ('test',),
            [('tensor',)],
        ),
        # --- datasets
        advice(
            'color_type must be one of ',
            LoadImageFromFile,
            dict(color_type='bgr'),
            [dict(color_type='color_ignore_orientation'), dict(color_type='color')],
        ),
        advice(
            "imdecode_backend must be 'cv2' (or 'pillow' or 'turbojpeg'",
            LoadImageFromFile,
            dict(imdecode_backend='tifffile'),
            [dict(imdecode_backend=name) for name in ('cv2', 'pillow', 'turbojpeg')],
        ),
        advice(
            'set backend_args, not file_client_args too',
            LoadImageFromFile,
            dict(backend_args=dict(backend='local'), file_client_args=dict(backend='disk')),
            [dict(backend_args=dict(backend='local'))],
        ),
        advice(
            'remove the key from the pipeline in the config',
            LoadAnnotations,
            dict(with_mask=True),
            [{}],
        ),
        advice(
            "box_type must be 'hbox' or None",
            LoadAnnotations,
            dict(box_type='rbox'),
            [dict(box_type='hbox'), dict(box_type=None)],
        ),
        advice('boxes, labels and flags must have the same number', pack, (1,), [(2,)]),
        advice(
            'sampler must be a torch Sampler',
            make(AspectRatioBatchSampler, batch_size=1),
            dict(sampler=[0, 1]),
            [dict(sampler=DefaultSampler(Sizes()))],
        ),
        advice('or use a mmengine dataset and sampler', group, ([0, 1],), [(Sizes(),)]),
        advice(
            "a dict, e.g. dict(img='train/')",
            CocoDataset,
            LAZY | dict(data_prefix='train/'),
            [LAZY | dict(data_prefix=dict(img='train/'))],
        ),
        advice(
            "a dict, e.g. dict(classes=('cat', 'dog'))",
            CocoDataset,
            LAZY | dict(metainfo=('cat', 'dog')),
            [LAZY | dict(metainfo=dict(classes=('cat', 'dog')))],
        ),
        advice(
            'data_prefix.{} must be a folder',
            CocoDataset,
            LAZY | dict(data_prefix=dict(img=['train/'])),
            [LAZY | dict(data_prefix=dict(img='train/'))],
        ),
        # --- evaluation
        advice(
            "metric must be 'bbox', 'proposal' or a list of them",
            CocoMetric,
            dict(metric='segm'),
            [dict(metric=each) for each in ('bbox', 'proposal', ['bbox', 'proposal'])],
        ),
        advice(
            'CocoMetric: {} must be of {}, got {}',
            CocoMetric,
            dict(backend='coco'),
            [dict(backend='pycocotools'), dict(backend='faster_coco_eval')],
        ),
        advice(
            "needs outfile_prefix, e.g. 'work_dirs/test/results'",
            CocoMetric,
            dict(format_only=True),
            [dict(format_only=True, outfile_prefix='work_dirs/test/results')],
        ),
        advice('of the dataset needs `classes`, names', set_classes, ('cat',), [(('cat',),)]),
        advice(
            'must be positive integers, got ',
            CocoMetric,
            dict(proposal_nums=[0]),
            [dict(proposal_nums=[1])],
        ),
        advice(
            'iou_thrs must be within (0, 1]', CocoMetric, dict(iou_thrs=50), [dict(iou_thrs=0.5)]
        ),
        advice(
            ' among the iou_thrs',
            CocoMetric,
            dict(metric_items=['mAP_30']),
            [dict(metric_items=['mAP_30'], iou_thrs=[0.3])],
        ),
        # --- engine
        advice(
            'optim_wrapper.use_fsdp=True is not supported: leave it out',
            amp,
            dict(use_fsdp=True),
            [{}],
        ),
        advice(
            'optim_wrapper.dtype must be one of ',
            amp,
            dict(dtype='half'),
            [dict(dtype='float16'), dict(dtype='bfloat16')],
        ),
        advice(
            "loss_scale must be 'dynamic', a number or a dict",
            amp,
            dict(loss_scale='static'),
            [dict(loss_scale=each) for each in ('dynamic', 512.0, dict(init_scale=512.0))],
        ),
        advice(
            'remove --amp, or choose the wrapper in the config',
            choose_amp,
            ('ApexOptimWrapper',),
            [('OptimWrapper',), ('AmpOptimWrapper',)],
        ),
        # --- visualization
        advice('alpha must be within [0, 1]', DetLocalVisualizer, dict(alpha=2), [dict(alpha=1)]),
        advice(
            ' must be (r, g, b) or a list of them',
            DetLocalVisualizer,
            dict(bbox_color='red'),
            [dict(bbox_color=(255, 0, 0)), dict(bbox_color=[(255, 0, 0), (0, 0, 255)])],
        ),
    ],
)
def test_what_is_allowed(part, build, wrong, right):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(build, wrong)
    assert says(str(caught.value), part)
    for each in right:
        call(build, each)


def call(build, arguments):
    return build(**arguments) if isinstance(arguments, dict) else build(*arguments)

"""A work dir as a training leaves it, with data, made without training."""

import json

import cv2
import numpy as np
import torch

CONFIG = """
default_scope = 'ghmdet'
anchors = dict(
    type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[1.0], strides=[8, 16]
)
assigner = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)
model = dict(
    type='RetinaNet',
    bbox_head=dict(type='RetinaHead', num_classes={count}, anchor_generator=anchors),
    train_cfg=dict(assigner=assigner),
)
dataset = dict(
    type='CocoDataset',
    data_root={root!r},
    ann_file='truth.json',
    metainfo=dict(classes={names!r}),
    data_prefix=dict(img='photos/'),
    pipeline=[],
)
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dataset)
val_dataloader = dict(dataset=dict(test_mode=True, **dataset))
test_dataloader = val_dataloader
val_evaluator = {evaluator}
test_evaluator = val_evaluator
"""
LOG = """2026/11/29 05:46:58 - mmengine - INFO - ghmdet 0.1.0 from /here
2026/11/29 05:46:58 - mmengine - INFO - 
------------------------------------------------------------
System environment:
    sys.platform: linux
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3
    OpenCV: 5.0.0

Runtime environment:
    seed: 0
------------------------------------------------------------
2026/11/29 05:46:59 - mmengine - INFO - Training begins:
  learning rate      0.001, AdamW
  device             cpu, num_threads=1
  logs               /tmp/secret
2026/11/29 05:49:58 - mmengine - INFO - Epoch(train)  [1][10/75]
2026/11/29 05:59:58 - mmengine - INFO - report written to /here/run/report.html (0.8 MB)
"""  # noqa: W291
SIZE = 120, 160  # height and width of an image
NAMES = 'cat', 'dog', 'owl'


def write_run(folder, boxes, found=None, names=NAMES, files=None, evaluator=None, val=True):
    """Write the work dir `folder/run` and the data beside it; return the work dir.

    `boxes` are (image, class, x, y, w, h) of objects, `found` too with a score at the end. Images
    count from 0, `files` are their names. `evaluator` is the text of val_evaluator.
    """
    files = files or [f'{i}.png' for i in range(1 + max([0, *(box[0] for box in boxes)]))]
    ids = {name: i for i, name in enumerate(names, 1)}
    truth = dict(
        images=[
            dict(id=i, file_name=n, height=SIZE[0], width=SIZE[1]) for i, n in enumerate(files)
        ],
        categories=[dict(id=i, name=name) for name, i in ids.items()],
        annotations=[
            dict(id=i, image_id=image, category_id=ids[name], bbox=box, area=box[2] * box[3])
            | dict(iscrowd=0)
            for i, (image, name, *box) in enumerate(boxes, 1)
        ],
    )
    (folder / 'photos').mkdir(parents=True)
    for name in files:
        picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
        _, content = cv2.imencode('.png', picture)
        (folder / 'photos' / name).write_bytes(content.tobytes())
    (folder / 'truth.json').write_text(json.dumps(truth))
    run = folder / 'run'
    vis = run / '20261129_054658' / 'vis_data'
    vis.mkdir(parents=True)
    evaluator = evaluator or f"dict(type='CocoMetric', outfile_prefix={str(run / 'val')!r})"
    root, names = f'{folder}/', tuple(names)
    text = CONFIG.format(root=root, names=names, count=len(names), evaluator=evaluator)
    for file in (vis / 'config.py', run / 'mine.py'):
        file.write_text(text)
    (vis.parent / f'{vis.parent.name}.log').write_text(LOG)
    records = [dict(lr=0.1, loss=4.0 / i, loss_cls=3.0 / i, epoch=1, iter=10 * i, step=10 * i)
               for i in range(1, 4)]  # fmt: skip
    records += [{'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_50': 0.5, 'step': 30}] if val else []
    (vis / 'scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n')
    weights = {'bbox_head.loss_cls.acc_sum': torch.tensor([1000.0, 10.0, 1.0])}
    torch.save(dict(state_dict=weights, meta={}), run / 'epoch_1.pth')
    (run / 'last_checkpoint').write_text('/moved/away/epoch_1.pth')
    if found is not None:
        (run / 'val.bbox.json').write_text(json.dumps([
            dict(image_id=image, category_id=ids[name], bbox=box, score=score)
            for image, name, *box, score in found
        ]))  # fmt: skip
    return run

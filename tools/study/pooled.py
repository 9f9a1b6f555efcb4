"""The config for small data sets, with GHM, and the counts of GHM-C over all levels together.

python tools/train.py tools/study/pooled.py --data-root data/mine
"""

_base_ = '../../configs/retinanet_r18_fpn_small.py'

__import__('sys').path.append('{{ fileDirname }}')  # where pooled_counts.py is
custom_imports = dict(imports=['pooled_counts'])

# One call in place of three, one for each level: loss_weight keeps the size of the loss.
ghmc = dict(_delete_=True, type='GHMC', bins=30, momentum=0.75, use_sigmoid=True, loss_weight=3.0)
ghmr = dict(_delete_=True, type='GHMR', mu=0.02, bins=10, momentum=0.7, loss_weight=10.0)
model = dict(bbox_head=dict(type='PooledRetinaHead', loss_cls=ghmc, loss_bbox=ghmr))

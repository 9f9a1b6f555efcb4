"""The config for small data sets, with the counts of GHM-C over all levels together.

python tools/train.py tools/study/pooled.py --data-root data/mine
"""

_base_ = '../../configs/retinanet_ghm_r18_fpn_small.py'

__import__('sys').path.append('{{ fileDirname }}')  # where pooled_counts.py is
custom_imports = dict(imports=['pooled_counts'])

# One call in place of three, one for each level: loss_weight keeps the size of the loss.
model = dict(bbox_head=dict(type='PooledRetinaHead', loss_cls=dict(loss_weight=3.0)))

"""Calls of CrossEntropyLoss whose figures in tests/data/golden were computed by MMDetection."""

import torch

from tests.golden import normal, uniform

# Arguments of the constructor, and of the call; the latter say what is drawn.
CASES = {
    'mean': (dict(), dict()),
    'none': (dict(reduction='none'), dict(weight='rows')),
    'sum': (dict(reduction='sum', loss_weight=0.5), dict(weight='rows')),
    'head': (dict(loss_weight=2.0), dict(weight='rows', avg_factor=7.0)),
    'class_weight': (dict(class_weight=[1.0, 0.25, 4.0]), dict(weight='rows', avg_factor=7.0)),
    'negative labels': (dict(), dict(ignored=-1, avg_factor=7.0)),
    'ignore_index': (dict(ignore_index=255), dict(ignored=255)),
    'ignored class': (dict(ignore_index=1, reduction='none'), dict()),
    'avg_non_ignore': (dict(ignore_index=255, avg_non_ignore=True), dict(ignored=255)),
    'avg_non_ignore, avg_factor': (
        dict(ignore_index=255, avg_non_ignore=True),
        dict(ignored=255, avg_factor=7.0),
    ),
    'override': (dict(), dict(weight='rows', reduction_override='none')),
    'targets': (dict(), dict(targets=True, weight='entries', avg_factor=7.0)),
    'large logits': (dict(reduction='none'), dict(scale=80.0)),
}


def draw(call):
    """Return logits (12, 3) and the other arguments of a call."""
    args = dict(call)
    pred = torch.from_numpy(normal('ce.pred', (12, 3), 1)) * args.pop('scale', 2.0)
    label = torch.from_numpy(uniform('ce.label', (12,), 1) * 4).long()
    if 'ignored' in args:
        label[2:5] = args.pop('ignored')
    args['label'] = label
    if args.pop('targets', False):
        args['label'] = torch.from_numpy(uniform('ce.target', (12, 3), 1))
    if 'weight' in args:
        shape = (12,) if args['weight'] == 'rows' else (12, 3)
        args['weight'] = torch.from_numpy(uniform('ce.weight', shape, 1) - 0.2).clamp(min=0)
    return pred, args

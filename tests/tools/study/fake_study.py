"""Tables of a study that nobody made: AP of each run is worked out from names and seed."""

import csv

METRICS = 'coco/bbox_mAP', 'coco/bbox_mAP_50'
FIXED = dict(iterations=600, minutes=6.6, memory_mb=900, commit='abc', ghmdet='0.1.0')
FIXED |= dict(torch='2.9.1', cpu='Some CPU', threads=1, command='python tools/train.py')


def write(file, rows):
    """Write rows whose columns are those of all of them, in order of appearance."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('w', encoding='utf-8', newline='') as stream:
        writer = csv.DictWriter(
            stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator='\n'
        )
        writer.writeheader()
        writer.writerows(rows)


def runs(data, aps, classes=('cell',)):
    """Rows of finished runs, given the AP of each seed by variant; AP50 is twice the AP."""
    return [
        dict(data=data, variant=variant, seed=seed, state='finished')
        | {METRICS[0]: ap, METRICS[1]: 2 * ap}
        | {f'coco/{name}_precision': ap for name in classes}
        | FIXED
        for variant, of_seeds in aps.items()
        for seed, ap in enumerate(of_seeds)
    ]


def curves(rows):
    """Rows of two validations of each run."""
    kept = 'data', 'variant', 'seed'
    return [
        {key: row[key] for key in kept}
        | {'iter': step * 300, METRICS[0]: row[METRICS[0]] * step / 2}
        for row in rows
        for step in (1, 2)
    ]

"""Write tide.json: python run_tide.py [../shared/data], with tidecv 1.0.1 installed."""
import json
import sys
import tempfile
from pathlib import Path

from tide_sets import drawn_sets, photograph_sets
from tidecv import TIDE, datasets

HERE = Path(__file__).parent


def measure(truth, results):
    """Return tidecv's figures; it needs segmentations, of which it measures nothing here."""
    for annotation in truth['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ('truth.json', 'results.json')]
        for file, content in zip(files, (truth, results)):
            file.write_text(json.dumps(content))
        tide = TIDE()
        run = tide.evaluate(
            datasets.COCO(str(files[0])), datasets.COCOResult(str(files[1])), mode=TIDE.BOX
        )
        kinds = {kind: kind.short_name for kind in run.fix_main_errors()}
        figures = run.fix_main_errors() | run.fix_special_errors()
        return {
            'AP50': run.ap,
            'dAP': {kind.short_name: value for kind, value in figures.items()},
            'counts': {kinds[kind]: count for kind, count in run.count_errors().items()},
        }


sets = drawn_sets() | (photograph_sets(Path(sys.argv[1])) if sys.argv[1:] else {})
golden = {name: measure(*each) for name, each in sets.items()}
(HERE / 'tide.json').write_text(json.dumps(golden, indent=1) + '\n')

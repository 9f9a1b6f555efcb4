"""examples/photos_to_onnx/README.md: each of its commands, in order."""

import json

import pytest

from tests.e2e.conftest import ROOT, page_commands, scalars

PAGE = (ROOT / 'examples' / 'photos_to_onnx' / 'README.md').read_text()


@pytest.mark.long
@pytest.mark.timeout(900)  # two minutes of CPU time
def test_each_command_of_the_page(server, tmp_path):
    outputs = {}
    for python, file, *args in page_commands(PAGE):
        assert python == 'python'
        assert (ROOT / file).is_file()
        done = server(f'../{file}', args, tmp_path, 500)
        assert done['code'] == 0, done['stdout'][-2000:] + done['stderr'][-3000:]
        outputs[file.rpartition('/')[2]] = done['stdout'] + done['stderr']
    (ap_50,) = scalars(tmp_path / 'work', 'coco/bbox_mAP_50')
    assert ap_50 > 0.4  # 0.61 when this was written
    assert 'no errors or warnings' in outputs['check_dataset.py']
    assert 'data/mine/annotations/val.json' in outputs['export.py']
    # The last command finds, in the first image, the objects of its label above the thresholds.
    rows = [line.split() for line in outputs['detect.py'].splitlines()]
    thresholds = json.loads((tmp_path / 'thresholds.json').read_text())['classes']
    found = sorted(
        name for name, score, *_ in rows if float(score) >= thresholds[name]['threshold']
    )
    results = json.loads((tmp_path / 'found' / 'results.json').read_text())
    first = [each for each in results if each['image_id'] == '00001.jpg']
    assert found == sorted(each['category_name'] for each in first)
    assert found

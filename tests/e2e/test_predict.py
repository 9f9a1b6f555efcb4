"""predict.py as users run it, on drawn images and a network of random weights."""

import csv
import functools
import http.server
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from ghmdet import Detector, predict
from ghmdet.config.errors import ConfigError
from ghmdet.engine import get_model, inference_detector, init_detector
from tests.detectors import randomize
from tests.e2e.conftest import ENV, ROOT, run, write_config

HEAD = "model['test_cfg'] = dict(score_thr=0.001, max_per_img=12)\n"
CLASSES = ('circle', 'square', 'triangle')
PAGE = (ROOT / 'docs/use/predict.md').read_text()


@pytest.fixture(scope='module')
def model(shapes, tmp_path_factory):
    """A config and its checkpoint, which give 12 detections an image."""
    folder = tmp_path_factory.mktemp('model')
    config = write_config(folder / 'tiny.py', shapes, HEAD)
    network = get_model(str(config))
    randomize(network)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=network.state_dict(), meta=meta), folder / 'tiny.pth')
    return str(config), str(folder / 'tiny.pth')


@pytest.fixture
def folder(shapes, tmp_path, monkeypatch):
    """Images of equal base names, in the folder in which the program runs."""
    monkeypatch.chdir(tmp_path)
    files = sorted((shapes / 'val').glob('*.jpg'))
    for name, file in zip(('a/1.jpg', 'a/2.jpg', 'b/1.jpg'), files):
        Path('photos', name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, Path('photos', name))
    return tmp_path


@pytest.fixture
def call(model, monkeypatch, capsys):
    """Run the program in this process; return what it prints."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*words, checkpoint=model[1]):
        words = [str(word) for word in words]
        monkeypatch.setattr(sys, 'argv', ['predict.py', model[0], checkpoint, *words])
        predict.main()
        return capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, before)


def read_csv(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def images_in(path):
    """The image ids in a JSON of results, in their order."""
    return list(dict.fromkeys(row['image_id'] for row in json.loads(Path(path).read_text())))


OUTPUTS = '--json f.json --coco coco.json --csv f.csv --yolo yolo --labelme lm --pictures --crops'


def corners(box):
    """x1, y1, x2, y2 of a bbox of COCO."""
    return [*box[:2], box[0] + box[2], box[1] + box[3]]


def read_outputs(shapes):
    """Image, class, score and corners of each detection, by kind of output."""
    results, coco = (json.loads(Path(file).read_text()) for file in ('f.json', 'coco.json'))
    images = {image['id']: image['file_name'] for image in coco['images']}
    names = {each['id']: each['name'] for each in coco['categories']}
    classes = Path('yolo/classes.txt').read_text().split()
    found = dict(yolo=[], labelme=[])
    found['json'] = [
        (row['file_name'], row['category_name'], row['score'], corners(row['bbox']))
        for row in results
    ]
    found['coco'] = [
        (images[row['image_id']], names[row['category_id']], row['score'], corners(row['bbox']))
        for row in coco['annotations']
    ]
    found['csv'] = [
        (row['file'], row['name'], row['score'], [row[key] for key in ('x1', 'y1', 'x2', 'y2')])
        for row in read_csv('f.csv')
    ]
    for name, (height, width) in shapes.items():
        for line in Path('yolo/labels', name).with_suffix('.txt').read_text().splitlines():
            label, *values = line.split()
            cx, cy, w, h, score = map(float, values)
            relative = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            box = np.multiply(relative, [width, height] * 2)
            found['yolo'].append((name, classes[int(label)], score, box))
        content = json.loads(Path('lm', name).with_suffix('.json').read_text())
        assert Path('lm', name).parent.joinpath(content['imagePath']).samefile(f'photos/{name}')
        for shape in content['shapes']:
            row = (name, shape['label'], shape['score'], np.ravel(shape['points']))
            found['labelme'].append(row)
    return found


def test_all_outputs_hold_the_detections_of_the_detector(model, folder, call):
    every = [*Detector(*model).stream('photos', batch_size=2)]
    threshold = float(np.sort(np.concatenate([found.scores for found in every]))[-20])
    expected = {found.name: found.above(threshold) for found in every}
    assert list(expected) == ['a/1.jpg', 'a/2.jpg', 'b/1.jpg']
    total = sum(map(len, expected.values()))
    assert 20 <= total < 36
    words = ['photos', *OUTPUTS.split(), '--batch-size', 2]
    out = call(*words, '--score-thr', repr(threshold)).out
    assert out.startswith(f'3 images, {total} detections: ')

    names = [(image, name) for image, found in expected.items() for *_, name in found]
    numbers = np.vstack([np.c_[found.scores, found.boxes] for found in expected.values()])
    for kind, rows in read_outputs({name: each.shape for name, each in expected.items()}).items():
        assert [row[:2] for row in rows] == names, kind
        values = np.array([[score, *box] for *_, score, box in rows], np.float64)
        assert np.abs(values - numbers).max(axis=0) == pytest.approx(0, abs=1e-3), kind
        assert np.abs(values - numbers)[:, 0].max() < 1e-7, kind
    for name, found in expected.items():
        drawn = cv2.imread(f'predictions/pictures/{name}').astype(int)
        assert np.abs(drawn - found.plot()).mean() < 4
        crops = [file.name for file in Path('predictions/crops').glob(f'*/{name[:-4]}_*.jpg')]
        assert len(crops) == len(found)
    # As MMDetection's functions give them; equal but for noise, which random weights amplify.
    sample = inference_detector(init_detector(*model), 'photos/b/1.jpg').pred_instances
    kept = sample[sample.scores >= threshold]
    assert np.allclose(kept.bboxes, expected['b/1.jpg'].boxes, atol=1e-2)
    assert np.allclose(kept.scores, expected['b/1.jpg'].scores, atol=1e-4)


def test_the_results_are_those_of_a_test(model, folder, call):
    call('photos', '--json', 'f.json', '--score-thr', 0, '--batch-size', 3)
    args = ('--images', folder / 'photos', '--out', folder / 'test.json')
    run('test.py', model[0], model[1], '--work-dir', folder, *args)
    found, expected = (json.loads(Path(f).read_text()) for f in ('f.json', 'test.json'))
    assert len(found) == len(expected) == 36
    for ours, theirs in zip(found, expected):
        for key in ('image_id', 'category_name'):
            assert ours[key] == theirs[key]
        assert ours['score'] == pytest.approx(theirs['score'], abs=1e-4)
        assert ours['bbox'] == pytest.approx(theirs['bbox'], abs=1e-4)


def test_without_options_there_are_results_rows_and_pictures(folder, call):
    out = call('photos/a', 'photos/b/1.jpg')
    files = [str(file) for file in sorted(Path('predictions').rglob('*')) if file.is_file()]
    assert files == [
        *(f'predictions/pictures/{name}.jpg' for name in ('a/1', 'a/2', 'b/1')),
        'predictions/results.csv',
        'predictions/results.json',
    ]
    first, second, third = out.out.splitlines()
    assert first.startswith('3 images, ')
    assert second.split()[1:5] == ['images/s', '(ms', 'per', 'image:']
    assert [word for word in second.split() if word.isalpha()] == [
        'per',
        'read',
        'network',
        'write',
    ]
    assert third == (
        'written: predictions/results.json, predictions/results.csv, predictions/pictures'
    )
    assert out.err == ''


def test_options_of_the_config(folder, call):
    first = 'model.test_cfg.max_per_img=5'
    call('photos', '--json', 'f.json', '--score-thr', 0, '--cfg-options', first)
    assert len(json.loads(Path('f.json').read_text())) == 15
    options = ('model.test_cfg.max_per_imgs=5', 'modle.x=1')
    out = call('photos/a', '--json', 'g.json', '--cfg-options', *options).out
    assert 'did you mean model.test_cfg.max_per_img?' in out
    assert 'modle.x=1 is not used; did you mean model?' in out
    with pytest.raises(ConfigError, match='(?s)with --strict:\n.*max_per_imgs=5 is not used'):
        call('photos/a', '--json', 'h.json', '--strict', '--cfg-options', *options)


def test_quiet(folder, call):
    assert call('photos/a/1.jpg', '--quiet', '--json', 'f.json').out == ''


def test_progress_on_a_terminal(folder, call, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, 'stderr', screen)
    call('photos', '--json', 'f.json')
    shown = screen.getvalue()
    assert '3/3' in shown
    call('photos', '--json', 'g.json', '--quiet')
    assert screen.getvalue() == shown


# --- sources --------------------------------------------------------------------------------------


def draw_video(path, frames, fps=10):
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), fps, (192, 160))
    for number in range(frames):
        image = np.full((160, 192, 3), 90, np.uint8)
        cv2.circle(image, (40 + 12 * number, 80), 30, (40, 200, 220), -1)
        video.write(image)
    video.release()


def test_a_video(folder, call):
    draw_video('clip.avi', 9)
    call('clip.avi', '--every', 4, '--score-thr', 0.5, '--json', 'f.json', '--csv', 'f.csv')
    results = json.loads(Path('f.json').read_text())
    assert images_in('f.json') == [f'clip.avi/{number:06d}.jpg' for number in (0, 4, 8)]
    assert {row['frame'] for row in results} == {0, 4, 8}
    assert {row['file_name'] for row in results} == {'clip.avi'}
    rows = [(row['file'], int(row['frame'])) for row in read_csv('f.csv')]
    assert rows == [('clip.avi', row['frame']) for row in results]
    call(*['clip.avi', '--every', '4', '--video', 'drawn.mp4', '--pictures'])
    video = cv2.VideoCapture('drawn.mp4')
    assert [video.get(key) for key in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS)] == [3, 2.5]
    pictures = sorted(Path('predictions/pictures/clip.avi').iterdir())
    assert [file.name for file in pictures] == ['000000.jpg', '000004.jpg', '000008.jpg']
    assert cv2.imread(str(pictures[0])).shape == (160, 192, 3)


@pytest.mark.parametrize('words', [['-'], ['--list', '-'], ['--list', 'list.txt'], ['list.txt']])
def test_a_list_and_stdin(folder, call, monkeypatch, words):
    text = '# two of three\nphotos/b/1.jpg\n\nphotos/a/1.jpg\n'
    Path('list.txt').write_text(text)
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(text.encode())))
    assert call(*words, '--json', 'f.json').out.startswith('2 images')
    prefix = 'photos/' if '-' in words else ''
    assert images_in('f.json') == [f'{prefix}b/1.jpg', f'{prefix}a/1.jpg']


@pytest.fixture
def site(folder):
    """The address of a server of the images."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_a_url(folder, call, site):
    call(f'{site}/photos/b/1.jpg', '--json', 'url.json', '--pictures')
    call('photos/b/1.jpg', '--json', 'file.json')
    url, file = (json.loads(Path(name).read_text()) for name in ('url.json', 'file.json'))
    assert [(row['bbox'], row['score']) for row in url] == [(r['bbox'], r['score']) for r in file]
    assert images_in('url.json') == ['127.0.0.1/photos/b/1.jpg']
    assert cv2.imread('predictions/pictures/127.0.0.1/photos/b/1.jpg') is not None


# --- docs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(('heading', 'number'), [('On the command line', 4), ('Thresholds', 2)])
def test_the_commands_of_the_docs(folder, call, monkeypatch, heading, number):
    text = PAGE.split(f'\n## {heading}\n')[1].split('\n## ')[0]
    lines = [
        line
        for block in re.findall('```\n(.*?)```', text, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) == number
    draw_video('clip.mp4', 12)
    shutil.copy('photos/a/1.jpg', 'a.jpg')
    cv2.imwrite('photos/b/2.png', cv2.imread('a.jpg'))
    Path('list.txt').write_text('photos/a/2.jpg\n')
    Path('thresholds.json').write_text(json.dumps(dict(classes=dict(circle=dict(threshold=1)))))
    done = []
    for line in lines:
        *source, command = line.split(' | ')
        if source:
            listed = subprocess.run(shlex.split(source[0]), capture_output=True, check=True).stdout
            monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(listed)))
        words = shlex.split(command, comments=True)
        assert words[:4] == ['python', 'tools/predict.py', 'CONFIG', 'CHECKPOINT']
        done.append(call(*words[4:]).out.split()[0])
    assert done == {4: ['4', '3', '3', '3'], 2: ['4', '4']}[number]
    if number == 4:
        assert len(list(Path('found/pictures').rglob('*.jpg'))) == 2
        assert {row['frame'] for row in read_csv('found.csv')} == {'0', '5', '10'}
    else:
        names = {row['category_name'] for row in json.loads(Path('best.json').read_text())}
        assert 'circle' not in names
        assert names


def test_the_options_of_the_docs_are_those_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['predict.py', '--help'])
    with pytest.raises(SystemExit):
        predict.parse_args()
    options = set(re.findall(r'--[\w-]+', capsys.readouterr().out))
    tables = [line for line in PAGE.splitlines() if line[:4] == '| `-']
    named = {option for line in tables for option in re.findall(r'--[\w-]+', line.split(' | ')[0])}
    assert named == options - {'--help'}


# --- thresholds -----------------------------------------------------------------------------------


def rows_above(path, thresholds):
    """The results at or above the threshold of their class."""
    rows = json.loads(Path(path).read_text())
    return [row for row in rows if row['score'] >= thresholds[row['category_name']]]


def test_thresholds_of_classes(folder, call):
    call('photos', '--json', 'all.json', '--score-thr', 0)
    scores = sorted({row['score'] for row in rows_above('all.json', dict.fromkeys(CLASSES, 0))})
    low, high = scores[len(scores) // 3], scores[-3]  # of detections: these are kept
    report = dict(classes=dict(circle=dict(threshold=high, f1=0.5), square=dict(threshold=None)))
    Path('thr.json').write_text(json.dumps(report))
    Path('plain.json').write_text(json.dumps(dict(circle=high)))
    expected = rows_above('all.json', dict(circle=high, square=low, triangle=low))
    assert len([row for row in expected if row['category_name'] == 'circle']) > 0
    assert len(expected) < len(rows_above('all.json', dict.fromkeys(CLASSES, low)))
    for given in ('@thr.json', '@plain.json', f'circle={high!r}'):
        call('photos', '--json', f'{given}.json', '--score-thr', repr(low), '--class-thr', given)
        assert json.loads(Path(f'{given}.json').read_text()) == expected
    # Also lower than the general one.
    call('photos', '--json', 'low.json', '--score-thr', 1, '--class-thr', 'circle=0', 'square=1')
    assert {row['category_name'] for row in json.loads(Path('low.json').read_text())} == {'circle'}


@pytest.mark.follows('there is no class {}{}')
def test_the_name_of_a_class_may_be_mistyped(folder, call):
    with pytest.raises(ValueError, match="there is no class 'sqare'; did you mean square"):
        call('photos', '--json', 'f.json', '--class-thr', 'sqare=0.5')
    assert not list(Path().glob('f*'))
    call('photos', '--json', 'f.json', '--class-thr', 'square=0.5')


@pytest.mark.follows('write sources before --class-thr')
def test_thresholds_that_are_none(folder, call, capsys):
    Path('broken.json').write_text('[1]')
    for words in ('cat', 'square=2', '=1', 'square=nan', '@broken.json', 'square=0.5 photos'):
        with pytest.raises(SystemExit) as caught:
            call('photos', '--json', 'f.json', '--class-thr', *words.split())
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert (
            f'in [0, 1], or @FILE with the JSON of threshold.py, got {words.split()[-1]!r}'
            in message
        )
    with pytest.raises(SystemExit):
        call('photos', '--class-thr', '@missing.json')
    assert "No such file or directory: 'missing.json'" in capsys.readouterr().err
    call('photos', '--json', 'f.json', '--class-thr', 'square=0.5')


# --- errors and stops -----------------------------------------------------------------------------


@pytest.mark.follows('expected CONFIG CHECKPOINT SOURCE..., or --list FILE in place of SOURCE')
def test_arguments_that_are_missing(folder, call, capsys):
    with pytest.raises(SystemExit):
        call()
    assert 'expected CONFIG CHECKPOINT SOURCE' in capsys.readouterr().err
    Path('list.txt').write_text('photos/a/1.jpg\n')
    assert call('--list', 'list.txt', '--json', 'f.json').out.startswith('1 images')


@pytest.mark.follows('--list must end in .txt or be -, got {}')
def test_the_suffix_of_a_list(folder, call, capsys):
    Path('images.lst').write_text('photos/a/1.jpg\n')
    with pytest.raises(SystemExit):
        call('--list', 'images.lst', '--json', 'f.json')
    assert '--list must end in .txt or be -, got images.lst' in capsys.readouterr().err
    Path('images.lst').rename('images.txt')
    assert call('--list', 'images.txt', '--json', 'f.json').out.startswith('1 images')


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        ('photos --score-thr 1.5', '--score-thr must be a number in [0, 1], got 1.5'),
        ('photos --every 0', '--every must be an integer of at least 1, got 0'),
        ('photos --batch-size -1', '--batch-size must be an integer of at least 1, got -1'),
        ('photos --csv f.json', '--csv f.json: the name must end in .csv'),
        ('photo --csv f.csv', "'photo' does not exist"),
        ('Photos --csv f.csv', "but there is 'photos'"),
    ],
)
def test_mistakes_are_found_before_the_model_is_built(folder, call, words, text):
    with pytest.raises(Exception, match=re.escape(text)):
        call(*words.split(), checkpoint='no such file')
    assert not Path('predictions').exists()


@pytest.mark.follows('choose another --out')
@pytest.mark.parametrize('source', ['.', 'predictions/pictures/a/1.jpg'])
def test_drawn_pictures_are_no_source(folder, call, source):
    call('photos')
    text = r'--out predictions: .*/predictions/pictures and .* share pictures'
    with pytest.raises(ValueError, match=text):
        call(source, '--exist-ok')
    call('photos', '--exist-ok', '--out', 'predictions')
    call(source, '--out', 'other')


def spoil(name):
    file = Path('photos', name)
    file.write_bytes(file.read_bytes()[:-300])


def test_an_image_that_cannot_be_used_stops_the_run(folder, call, capsys):
    spoil('a/2.jpg')
    with pytest.raises(ValueError, match=r'photos/a/2.jpg is truncated'):
        call('photos', '--json', 'f.json', '--coco', 'coco.json', '--pictures', '--batch-size', 4)
    assert capsys.readouterr().err.splitlines()[-1] == (
        'stopped after 1 of 3 images, kept in f.part.json, coco.part.json, predictions/pictures'
    )
    assert images_in('f.part.json') == ['a/1.jpg']
    assert len(json.loads(Path('coco.part.json').read_text())['images']) == 1
    assert not Path('f.json').exists()


def test_images_that_cannot_be_used_are_skipped(folder, call):
    spoil('a/2.jpg')
    Path('list.txt').write_text('photos/a/1.jpg\nphotos/a/2.jpg\nphotos/none.jpg\nphotos/b/1.jpg')
    out = call('list.txt', '--json', 'f.json', '--on-error', 'skip', '--score-thr', 0)
    assert images_in('f.json') == ['a/1.jpg', 'b/1.jpg']
    assert out.err == (
        '2 images cannot be used and were left out:\n'
        'image photos/a/2.jpg is truncated: its end marker is missing\n'
        "'photos/none.jpg' does not exist\n"
    )
    assert out.out.startswith('2 images, 24 detections')
    spoil('a/1.jpg')
    with pytest.raises(ValueError, match='no image can be used: .*a/1.jpg is truncated'):
        call('photos/a', '--json', 'g.json', '--on-error', 'skip')


@pytest.mark.parametrize(
    ('number', 'error'), [(signal.SIGINT, KeyboardInterrupt), (15, SystemExit)]
)
def test_a_run_that_is_told_to_stop_keeps_what_is_done(
    folder, call, monkeypatch, capsys, number, error
):
    write = predict.read_pixels
    done = []

    def read_pixels(*args):
        done.append(1)
        if len(done) == 3:
            os.kill(os.getpid(), number)
        return write(*args)

    monkeypatch.setattr(predict, 'read_pixels', read_pixels)
    draw_video('clip.avi', 5)
    with pytest.raises(error):
        call('clip.avi', '--json', 'f.json', '--csv', 'f.csv', '--video', 'f.mp4', '--score-thr', 0)
    text = 'stopped after 2 of 5 images, kept in f.part.json, f.part.csv, f.part.mp4'
    assert capsys.readouterr().err.splitlines()[-1] == text
    assert len(images_in('f.part.json')) in (2, 3)
    assert {row['frame'] for row in read_csv('f.part.csv')} >= {'0', '1'}
    assert cv2.VideoCapture('f.part.mp4').get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_after_a_kill_all_files_can_be_read(model, shapes, tmp_path):
    photos = tmp_path / 'photos'
    photos.mkdir()
    files = sorted(shapes.rglob('*.jpg'))
    for number in range(400):
        (photos / f'{number:03d}.jpg').symlink_to(files[number % len(files)])
    command = [sys.executable, ROOT / 'tools/predict.py', *model, 'photos', *OUTPUTS.split()]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE)
    end, part = time.monotonic() + 120, tmp_path / 'coco.images.part.json'
    while not part.exists() or len(json.loads(part.read_text())) < 4:
        assert time.monotonic() < end, 'no four images within 120 s'
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=60)
    done = [image['file_name'] for image in json.loads(part.read_text())]
    assert 4 <= len(done) < 400
    assert done == [f'{number:03d}.jpg' for number in range(len(done))]
    assert images_in(tmp_path / 'f.part.json') in (done, [*done, f'{len(done):03d}.jpg'])
    json.loads((tmp_path / 'coco.annotations.part.json').read_text())
    rows = {row['file'] for row in read_csv(tmp_path / 'f.part.csv')}
    assert set(done[:-1]) <= rows
    for name in done[:-1]:
        assert (tmp_path / 'yolo/labels' / name).with_suffix('.txt').read_text().count('\n') == 12
        json.loads((tmp_path / 'lm' / name).with_suffix('.json').read_text())
    for file in (tmp_path / 'predictions').rglob('*.jpg'):
        if not file.name.startswith('.'):
            assert cv2.imread(str(file)) is not None


def test_each_output_is_closed_also_after_an_error_of_one(capsys):
    closed = []

    class Output:
        def __init__(self, name):
            self.name = name

        def write(self, found, pixels):
            raise OSError('no space left')

        def close(self, finished):
            closed.append((self.name, finished))
            if self.name == 'b':
                raise OSError('still none')
            return self.name

    found = SimpleNamespace(names=['cat'])
    with pytest.raises(OSError, match='still none'):
        predict.write([(None, found)], [Output('a'), Output('b'), Output('c')], {}, 1, True)
    assert closed == [('a', False), ('b', False), ('c', False)]
    assert capsys.readouterr().err == 'stopped after 0 of 1 images, kept in a, c\n'

"""tools/report.py on work dirs made by hand: figures, gaps, foreign text, the browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import report

from ghmdet.checks.classes import complete_evaluators
from ghmdet.config.shipped import get_config
from tests.reports.run_folder import NAMES, write_run
from tests.reports.test_ghm import content_of

# Image 0: a cat found, a dog missed. 1: a cat taken for a dog. 2: a false cat. 3: a dog found.
BOXES = [
    (0, 'cat', 20, 20, 40, 40),
    (0, 'dog', 90, 60, 30, 30),
    (1, 'cat', 20, 20, 40, 40),
    (3, 'dog', 20, 20, 40, 40),
]
FOUND = [
    (0, 'cat', 20, 20, 40, 40, 0.9),
    (1, 'dog', 20, 20, 40, 40, 0.8),
    (2, 'cat', 100, 10, 30, 30, 0.6),
    (3, 'dog', 20, 20, 40, 40, 0.7),
]
JUDGED = ['classes', 'confusion', 'errors', 'images']
ALL = ['summary', 'curves', *JUDGED, 'sizes', 'ghm', 'changes', 'environment']
ODD_NAMES = '<b>"x"&amp;\'</b> $a$ id="p"', '猫', 'قطة صغيرة', '_x'
ODD_FILES = ['<img src=x onerror=alert(1)>.png', 'שלום.png', '图像 "1".png', '&lt;.png']
OUTSIDE = re.compile(r'^(?!data:image/|#)', re.IGNORECASE)
VOID = {'meta', 'img', 'br'}


class Page(HTMLParser):
    """The sections of a report; what must not be in one is an error."""

    def __init__(self, file):
        super().__init__()
        self.text, self.ids, self.open = file.read_text('utf-8'), [], []
        self.bdi, self.sections, self.alts = [], {}, []
        self.feed(self.text)
        self.close()
        assert not self.open
        assert len(self.ids) == len(set(self.ids))
        for name, content in self.sections.items():
            assert content & {'table', 'img', 'svg'}, f'section {name} is empty'

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert tag not in ('script', 'link', 'iframe', 'object', 'base', 'style@import'), tag
        for key, value in attrs:
            assert not key.startswith('on'), (tag, key)
            if key in ('src', 'href', 'xlink:href', 'srcset', 'action'):
                assert not OUTSIDE.match(value), value
            if key in ('style', 'clip-path', 'fill'):
                assert all(part.startswith('#') for part in re.findall(r'url\((.*?)\)', value))
        self.ids += [values['id']] if 'id' in values else []
        if tag == 'section':
            self.sections[values['id']] = set()
        elif self.sections:
            self.sections[list(self.sections)[-1]].add(tag)
        if tag in ('img', 'svg'):
            self.alts.append(values['alt' if tag == 'img' else 'aria-label'])
            assert self.alts[-1]
        if tag == 'th':
            assert values['scope'] in ('row', 'col')
        if tag == 'bdi':
            self.bdi.append('')
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if 'bdi' in self.open:
            self.bdi[-1] += data
        if 'style' in self.open:
            assert 'url(' not in data
            assert '@import' not in data

    def rows(self, section):
        """The cells of the tables of a section, as text."""
        part = self.text.split(f'<section id="{section}"')[1].split('</section>')[0]
        return [
            [html.unescape(re.sub('<[^>]*>', '', cell)).strip() for cell in cells]
            for row in re.findall('<tr>(.*?)</tr>', part, re.DOTALL)
            if (cells := re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.DOTALL))
        ]


def make(run, *options):
    report.main([str(run), *map(str, options)])
    return Page(run / 'report.html')


def test_figures(tmp_path, capsys):
    page = make(write_run(tmp_path, BOXES, FOUND))
    out = capsys.readouterr().out
    assert 'report.html' in out
    assert 'left out' not in out
    assert list(page.sections) == ALL
    dash = '\N{EN DASH}'
    assert page.rows('classes')[1:] == [
        ['cat', '0.505', '0.505', '2', '0.900', '1.000', '0.500', '0.667', '1', '1', '0'],
        ['dog', '0.252', '0.252', '2', '0.700', '0.500', '0.500', '0.500', '1', '1', '1'],
        ['owl', dash, dash, '0', dash, dash, dash, dash, '0', '0', '0'],
        ['(all)', '0.379', '0.379', '4', '0.700', '0.667', '0.500', '0.571', '2', '2', '1'],
    ]
    assert page.rows('confusion') == [
        ['true \\ predicted', 'cat', 'dog', 'owl', 'background'],
        ['cat', '1', '1', '', ''],
        ['dog', '', '1', '', '1'],
        ['owl', '', '', '', ''],
        ['background', '', '', '', ''],
        ['true', 'predicted', 'count', 'share of the true'],
        ['cat', 'dog', '1', '50.0 %'],
    ]
    kinds = {row[0]: row[2] for row in page.rows('errors')[1:]}
    assert kinds == dict(Cls='1', Loc='0', Both='0', Dupe='0', Bkg='1', Miss='1') | dict(
        FalsePos='', FalseNeg=''
    )
    assert re.findall(r'<h3><bdi>(.*?)</h3>', page.text) == ['1.png</bdi>: F1 0.00'] + [
        '0.png</bdi>: F1 0.67'
    ]
    assert 'Annotations: 2, 1 of them missed' in page.alts
    assert 'Detections: 1, 1 of them false' in page.alts
    assert page.text.count('<li><bdi>false dog 0.80</bdi>') == 1
    facts = dict(page.rows('summary'))
    assert facts['trained'] == '2026-11-29 05:46:58 to 2026-11-29 05:49:58'
    assert (facts['time'], facts['device']) == ('3.0 minutes', 'cpu, num_threads=1')
    assert 'logs' not in facts
    assert dict(page.rows('environment')) == {
        'sys.platform': 'linux',
        'OpenCV': '5.0.0',
        'seed': '0',
    }
    assert 'Best AP <strong>0.250</strong>' in page.text.replace('\n', '')
    # 4 boxes, of which no anchor (32 to 101 pixels wide) fits the one of 30 x 30 less than 0.5.
    assert '0 of 4 boxes of the training data have no anchor of IoU 0.5' in page.text
    changes = {key: (before, now) for key, before, now in page.rows('changes')[1:]}
    assert changes['train_dataloader.dataset.ann_file'][1] == "'truth.json'"
    assert 'work_dir' not in changes
    assert 'val_evaluator.outfile_prefix' not in changes  # set by --report


def test_a_removed_section_of_the_config_is_one_difference(tmp_path):
    cfg = get_config('retinanet_ghm_r18_fpn_shapes')
    complete_evaluators(cfg)  # as in the config that a run writes
    cfg.merge_from_dict(dict(val_cfg=None, val_dataloader=None, val_evaluator=None))
    cfg.train_cfg.max_epochs = 1
    (tmp_path / 'retinanet_ghm_r18_fpn_shapes.py').touch()
    assert report.compare_configs(cfg, tmp_path)['rows'] == [
        ('train_cfg.max_epochs', '15', '1'),
        ('val_cfg', '...', 'None'),
        ('val_dataloader', '...', 'None'),
        ('val_evaluator', '...', 'None'),
    ]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path, BOXES, FOUND)
    assert make(run).text == make(run).text


def test_foreign_text_is_shown_as_it_is(tmp_path, monkeypatch):
    def rename(boxes):
        return [(i, ODD_NAMES[NAMES.index(name)], *rest) for i, name, *rest in boxes]

    run = write_run(tmp_path, rename(BOXES), rename(FOUND), ODD_NAMES, ODD_FILES)
    page = make(run)
    shown = set(page.bdi)
    assert shown >= {*ODD_NAMES, ODD_FILES[0], ODD_FILES[1]}
    assert f'false {ODD_NAMES[1]} 0.80' in shown
    names = [row[0] for row in page.rows('classes')[1:]]
    assert names == [*ODD_NAMES, '(all)']


def test_what_is_missing_is_left_out(tmp_path, capsys):
    run = write_run(tmp_path, BOXES, evaluator="dict(type='VOCMetric')", val=False)
    (run / 'last_checkpoint').unlink()
    page = make(run)
    assert list(page.sections) == ['summary', 'curves', 'sizes', 'changes', 'environment']
    out = capsys.readouterr().out
    assert 'no validation in the log' in out
    assert 'no CocoMetric in val_evaluator' in out
    assert 'ghm_report.py CONFIG CHECKPOINT' in out
    assert 'Best AP' not in page.text
    for file in run.glob('*/vis_data/config.py'):
        file.unlink()
    (run / 'mine.py').unlink()
    shutil.rmtree(tmp_path / 'photos')
    assert list(make(run).sections) == ['summary', 'curves', 'environment']
    shutil.rmtree(run)
    run.mkdir()
    with pytest.raises(ValueError, match='neither a log nor a config'):
        make(run)


@pytest.mark.parametrize(
    ('boxes', 'found', 'missing'),
    [
        (BOXES, [], []),  # nothing detected
        ([], FOUND[:1], ['sizes']),  # nothing to find
        ([], [], ['confusion', 'images', 'sizes']),
        (BOXES[2:3], FOUND[:1], []),  # one class
        (BOXES[:1], FOUND[:1], ['images']),  # no error
    ],
)
def test_few_detections_and_objects(tmp_path, boxes, found, missing):
    names = NAMES[:1] if boxes and len(boxes) < 3 else NAMES
    page = make(write_run(tmp_path, boxes, found, names))
    assert [name for name in ALL if name not in page.sections] == missing
    if not found:
        assert 'aria-label="Precision over recall' not in page.text


def test_of_many_classes_the_largest_confusions_are_listed(tmp_path):
    names = [f'class {i}' for i in range(30)]
    boxes = [(i, name, 20, 20, 40, 40) for i, name in enumerate(names)]
    # Each is taken for the next one, the last two are right.
    found = [(i, names[min(i + 1, 29)], 20, 20, 40, 40, 0.9) for i in range(30)]
    page = make(write_run(tmp_path, boxes, found, names))
    assert page.rows('confusion')[0] == ['true', 'predicted', 'count', 'share of the true']
    assert page.rows('confusion')[1] == ['class 0', 'class 1', '1', '100.0 %']
    assert len(page.rows('confusion')) == 21
    assert len(page.rows('classes')) == 32


@pytest.mark.follows('--results found.json adds them')
def test_results_add_the_sections_on_detections(tmp_path, capsys):
    run = write_run(tmp_path, BOXES)
    assert not {*JUDGED} & {*make(run).sections}
    assert f'tools/report.py {run} --results found.json adds them' in capsys.readouterr().out
    ids = dict(cat=1, dog=2)
    rows = [dict(image_id=i, category_id=ids[n], bbox=b, score=s) for i, n, *b, s in FOUND]
    (tmp_path / 'found.json').write_text(json.dumps(rows))
    page = make(run, '--results', tmp_path / 'found.json')
    assert {*JUDGED} < {*page.sections}
    assert dict(page.rows('summary'))['detections'] == str(tmp_path / 'found.json')


@pytest.mark.follows('--data-root DIR names the folder of the data')
def test_data_that_were_moved(tmp_path, capsys):
    run = write_run(tmp_path / 'a', BOXES, FOUND)
    (tmp_path / 'a' / 'photos').rename(tmp_path / 'b')
    assert 'images' not in make(run).sections
    assert '--data-root DIR' in capsys.readouterr().out
    (tmp_path / 'b').rename(tmp_path / 'a' / 'photos')
    run = run.rename(tmp_path / 'run')
    (tmp_path / 'a').rename(tmp_path / 'c')
    assert not {*JUDGED} & {*make(run).sections}
    page = make(run, '--data-root', tmp_path / 'c')
    assert list(page.sections) == ALL
    assert 'left out' not in capsys.readouterr().out.rpartition('report written')[2]


def test_gradient_norms_of_the_log_come_before_those_of_the_checkpoint(tmp_path):
    run = write_run(tmp_path, BOXES, FOUND)
    assert any('in the last checkpoint; loss_cls: 1,011' in alt for alt in make(run).alts)
    (file,) = run.glob('*/vis_data/scalars.json')
    record = {'ghm/loss_cls/bin_00': 100, 'ghm/loss_cls/bin_01': 3, 'step': 30}
    file.write_text(file.read_text() + json.dumps(record) + '\n')
    assert 'over the training, from the log' in make(run).text
    content = dict(models=[content_of()])
    (run / 'ghm_report').mkdir()
    (run / 'ghm_report' / 'ghm_report.json').write_text(json.dumps(content))
    entries = int(sum(map(sum, content['models'][0]['loss_cls']['counts'])))
    assert any(f'by ghm_report.py; loss_cls: {entries:,}' in alt for alt in make(run).alts)


BROWSER = shutil.which('chromium') or shutil.which('chromium-browser')
MEASURE = """<body><script>addEventListener('load', () => {
  const page = document.querySelector('iframe').contentDocument;
  const boxes = [...page.querySelectorAll('section')].map(s => s.getBoundingClientRect());
  document.body.dataset.found = JSON.stringify({
    width: page.documentElement.scrollWidth,
    heights: boxes.map(b => b.height),
    gaps: boxes.slice(1).map((b, i) => b.top - boxes[i].bottom),
    wide: [...page.querySelectorAll('p, h1, h2, h3, img, figcaption, li')]
      .filter(e => e.getBoundingClientRect().right > page.documentElement.clientWidth + 1)
      .map(e => e.outerHTML.slice(0, 100)),
    broken: [...page.images].filter(i => !i.complete || !i.naturalWidth).length,
    texts: [...page.querySelectorAll('th bdi')].map(e => e.innerText)})})</script>
<iframe style="border: 0; width: %dpx; height: 2000px" srcdoc="%s"></iframe></body>"""


@pytest.mark.skipif(BROWSER is None, reason='needs Chromium')
@pytest.mark.parametrize('width', [400, 1200])
def test_in_a_browser(tmp_path, width):
    names = [*ODD_NAMES[:2], 'x' * 100]
    boxes = [(i, names[NAMES.index(name)], *rest) for i, name, *rest in BOXES]
    found = [(i, names[NAMES.index(name)], *rest) for i, name, *rest in FOUND]
    files = [*ODD_FILES[:3], 'y' * 200 + '.png']
    page = make(write_run(tmp_path, boxes, found, names, files))
    file = tmp_path / 'frame.html'
    file.write_text(MEASURE % (width, html.escape(page.text)), 'utf-8')
    command = [BROWSER, '--headless=new', '--no-sandbox', '--disable-gpu', '--dump-dom']
    options = [f'--user-data-dir={tmp_path / "profile"}', '--window-size=1400,2000']
    done = subprocess.run(
        [*command, *options, f'file://{file}'], capture_output=True, text=True, timeout=120
    )
    found = json.loads(html.unescape(re.search('data-found="(.*?)"', done.stdout)[1]))
    assert found['width'] <= width
    assert found['wide'] == []
    assert found['broken'] == 0
    assert min(found['heights']) > 60
    assert min(found['gaps']) >= 0
    assert {*names} <= {*found['texts']}

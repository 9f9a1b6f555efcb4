import re
from pathlib import Path

import pytest

from tests.tools.study.fake_study import curves, runs, write

TOOL = 'study/make_page.py'
ROOT = Path(__file__).parents[3]
# Of the seeds 0, 1, 2. Differences to GHM: -0.1 each; 0.01, 0.01, -0.01.
LOSSES = dict(ghm=[0.50, 0.52, 0.54], focal=[0.40, 0.42, 0.44], ce=[0.51, 0.53, 0.53])
CLASSES = dict(
    bccd=['WBC', 'RBC', 'Platelets'],
    bloodcells=['rbc', 'wbc'],
    deeppcb=['mousebite', 'open', 'spur', 'pin-hole', 'copper', 'short'],
)


def save(results, name, rows):
    write(results / f'{name}.csv', rows)
    write(results / f'{name}_curves.csv', curves([r for r in rows if r['state'] == 'finished']))


def make(run_tool, tmp_path, **tables):
    """Make the page from tables; return its lines."""
    for name, rows in tables.items():
        save(tmp_path / 'docs/results', name, rows)
    (tmp_path / 'docs/results').mkdir(parents=True, exist_ok=True)
    code, _, err = run_tool(TOOL, '--docs', 'docs')
    assert (code, err) == (0, '')
    return (tmp_path / 'docs/choosing_a_loss.md').read_text('utf-8').splitlines()


def section(lines, heading):
    """Lines below a heading, without empty ones."""
    start = next(i for i, line in enumerate(lines) if line.strip('# ') == heading)
    text = '\n'.join(lines[start + 1 :])
    return [line for line in re.split(r'^##', text, flags=re.M)[0].splitlines() if line]


def test_the_committed_page_is_what_its_tables_give(run_tool):
    code, out, err = run_tool(TOOL, '--check')
    assert (code, out, err) == (0, '', ''), 'run tools/study/make_page.py'
    assert len((ROOT / 'docs/choosing_a_loss.md').read_text('utf-8').splitlines()) <= 170


def test_recipes_have_the_figures_of_their_runs(run_tool, tmp_path):
    """The mean of focal loss on BCCD is 0.42, t interval 0.42 ± 4.303 * 0.02 / sqrt(3)."""
    other = dict(mmdetection_bccd=runs('bccd', {'mmdetection 3.3.0': [0.156, 0.125]}))
    lines = section(make(run_tool, tmp_path, losses_bccd=runs('bccd', LOSSES), **other), 'Recipes')
    assert any('_small.py) | BCCD | 0.420 (0.370 to 0.470) | 7 |' in line for line in lines)
    assert sum('not measured yet' in line for line in lines) == 3
    assert any(' reached 0.156 and 0.125 with ' in line for line in lines)


def test_no_measured_number_is_typed():
    for name in ('choosing_a_loss.md.j2', 'make_page.py'):
        assert re.findall(r'\d\.\d', (ROOT / 'tools/study' / name).read_text('utf-8')) == []


def test_what_is_not_measured_is_said(run_tool, tmp_path):
    lines = make(run_tool, tmp_path)
    assert [line for line in lines if re.search(r'\d\.\d|\| result', line)] == []
    names = [line for line in lines if line.startswith('Not measured yet')]
    assert names == ['Not measured yet.'] + [
        f'Not measured yet: {name}.'
        for name in (
            *('losses_bccd', 'losses_deeppcb', 'losses_bloodcells', 'mixed_bccd'),
            *('imagenet_microcontroller', 'shuffled_bccd', 'lr_grid'),
            *('momentum_bccd', 'pooled_bccd'),
        )
    ]


def test_losses_worked_by_hand(run_tool, tmp_path):
    failed = dict(data='deeppcb', variant='focal', seed=1, state='failed: the loss is nan')
    deeppcb = [*runs('deeppcb', dict(ghm=[0.2, 0.3], focal=[0.3])), failed]
    lines = make(
        run_tool,
        tmp_path,
        losses_bccd=runs('bccd', LOSSES, ['RBC']),
        losses_deeppcb=deeppcb,
    )
    # 0.02 * t(0.975, 2) / sqrt(3) = 0.0497, t = 4.3027. Seeds by scipy's quantiles.
    assert section(lines, 'Three losses')[2:7] == [
        '| BCCD | GHM-C + GHM-R | 3 | 0.520 (0.470 to 0.570) | 1.040 | 7 | | |',
        '| BCCD | focal + L1 | 3 | 0.420 (0.370 to 0.470) | 0.840 | 7 '
        '| -0.100 (-0.100 to -0.100) | lower |',
        '| BCCD | cross entropy + L1 | 3 | 0.523 (0.495 to 0.552) | 1.047 | 7 '
        '| +0.003 (-0.025 to +0.032) | no difference seen; would take 97 seeds |',
        # 0.0707 * 12.706 / sqrt(2) = 0.635
        '| DeepPCB | GHM-C + GHM-R | 2 | 0.250 (-0.385 to 0.885) | 0.500 | 7 | | |',
        '| DeepPCB | focal + L1 | 1 | 0.300 | 0.600 | 7 | +0.100 | one seed: cannot tell |',
    ]
    assert section(lines, 'Three losses')[7:9] == [
        'Left out: DeepPCB, focal + L1, seed 1, failed: the loss is nan.',
        'Not measured yet: losses_bloodcells.',
    ]
    assert '| BCCD | RBC 0.520 | RBC 0.420 (lower) | RBC 0.523 |' in lines
    assert section(lines, 'In short')[2:4] == [
        '- **focal + L1**: lower AP than GHM-C + GHM-R on BCCD; '
        'one seed, so nothing can be told, against GHM-C + GHM-R on DeepPCB.',
        '- **cross entropy + L1**: no difference seen from GHM-C + GHM-R on BCCD.',
    ]


@pytest.mark.parametrize(('aps', 'is_said'), [([0.6, 0.62, 0.64], True), ([0.4, 0.6, 0.5], False)])
def test_l1_in_place_of_ghmr(run_tool, tmp_path, aps, is_said):
    """It is advised where GHM-C + L1 is surely higher than 0.50, 0.52, 0.54: here by 0.1."""
    mixed = runs('bccd', dict(ghm=LOSSES['ghm'], ghmc_l1=aps))
    lines = make(run_tool, tmp_path, losses_bccd=runs('bccd', LOSSES), mixed_bccd=mixed)
    found = [line for line in section(lines, 'In short') if 'GHM-R, the loss of the boxes' in line]
    assert len(found) == is_said
    assert all("'type': 'L1Loss'" in line for line in found)
    # Focal loss has 0.40, 0.42, 0.44: 0.2 less, or 0, 0.18 and 0.06 less (0.08 ± 0.23).
    apart = section(lines, 'Classification and regression apart')
    outcome = 'higher' if is_said else 'no difference seen'
    assert f'Against focal + L1: GHM-C + L1 {outcome} on BCCD.' in apart


def test_the_last_rise_worked_by_hand(run_tool, tmp_path):
    """Half of the AP at the end, 0.26, 0.21, 0.523 / 2: see `fake_study.curves`."""
    lines = make(run_tool, tmp_path, losses_bccd=runs('bccd', LOSSES))
    assert '| BCCD | 300 | +0.260 | +0.210 | +0.262 |' in lines
    (file,) = (tmp_path / 'docs/results').glob('*_curves.csv')
    rows = file.read_text().splitlines()
    file.write_text('\n'.join(row for row in rows if not row.startswith('bccd,ce,1,')))
    lines = make(run_tool, tmp_path)
    assert '| BCCD | 300 | +0.260 | +0.210 | +0.260 |' in lines


def test_variants_without_a_finished_run(run_tool, tmp_path):
    failed = [
        dict(data=data, variant=variant, seed=0, state='failed: killed')
        for data, variant in (('bccd', 'focal'), ('deeppcb', 'ghm'))
    ]
    finished = runs('bccd', dict(ghm=[0.5])), runs('deeppcb', dict(ce=[0.4]))
    lines = make(
        run_tool,
        tmp_path,
        losses_bccd=[*finished[0], failed[0]],
        losses_deeppcb=[failed[1], *finished[1]],
    )
    assert section(lines, 'Three losses')[2:6] == [
        '| BCCD | GHM-C + GHM-R | 1 | 0.500 | 1.000 | 7 | | |',
        '| BCCD | focal + L1 | 0 | n/a | n/a |  | n/a | not measured |',
        '| DeepPCB | GHM-C + GHM-R | 0 | n/a | n/a |  | | |',
        '| DeepPCB | cross entropy + L1 | 1 | 0.400 | 0.800 | 7 | n/a | not measured |',
    ]
    assert section(lines, 'In short')[2:4] == [
        '- **focal + L1**: nothing to compare with GHM-C + GHM-R on BCCD.',
        '- **cross entropy + L1**: nothing to compare with GHM-C + GHM-R on DeepPCB.',
    ]


def test_wrong_labels_worked_by_hand(run_tool, tmp_path):
    wrong = runs('bccd', dict(ghm=[0.48, 0.50, 0.52], focal=[0.42, 0.44, 0.46], ce=[0.46]))
    lines = make(run_tool, tmp_path, losses_bccd=runs('bccd', LOSSES), shuffled_bccd=wrong)
    assert section(lines, 'Wrong labels')[1:8] == [
        '- **focal + L1**: wrong labels cost less AP than with GHM-C + GHM-R on BCCD.',
        '- **cross entropy + L1**: one seed, so nothing can be told, against GHM-C + GHM-R on '
        'BCCD.',
        *section(lines, 'Wrong labels')[3:5],
        '| GHM-C + GHM-R | 3 | 0.500 (0.450 to 0.550) | -0.020 (-0.020 to -0.020) | | |',
        '| focal + L1 | 3 | 0.440 (0.390 to 0.490) | 0.020 (0.020 to 0.020) '
        '| +0.040 (+0.040 to +0.040) | higher |',
        '| cross entropy + L1 | 1 | 0.460 | -0.050 | -0.030 | one seed: cannot tell |',
    ]


def test_the_grid_of_learning_rates(run_tool, tmp_path):
    aps = {'ghm lr=1e-3': [0.3], 'ghm lr=3e-4': [0.2], 'ghm lr=3e-3': [0.1], 'ce lr=1e-2': [0.4]}
    aps |= {'ce lr=3e-3': [0.35]}
    losses = runs('bccd', LOSSES)
    for row in losses[3:]:
        row['command'] = (
            "python tools/train.py a.py --cfg-options 'optim_wrapper.optimizer.lr=3e-4'"
        )
    failed = dict(data='bccd', variant='ce lr=1e-3', seed=0, state='failed: killed')
    lines = make(run_tool, tmp_path, lr_grid=[*runs('bccd', aps), failed], losses_bccd=losses)
    assert section(lines, 'Learning rate')[:6] == [
        'AdamW, a third of the iterations, one seed that is used nowhere else. Bold is the best. '
        "The tables above used the config's for GHM-C + GHM-R, 3e-4 for focal + L1, 3e-4 for "
        'cross entropy + L1.',
        '| AP at lr 3e-4 / 1e-3 / 3e-3 / 1e-2 | GHM-C + GHM-R | cross entropy + L1 |',
        '|---|---|---|',
        '| BCCD | 0.200 / **0.300** / 0.100 / n/a | n/a / n/a / 0.350 / **0.400** |',
        'The best rate is at an end of the grid, so that another may be better still: '
        'cross entropy + L1 on BCCD.',
        'Left out: BCCD, ce lr=1e-3, seed 0, failed: killed.',
    ]
    assert 'AP differs by 0.050 to 0.200.' in '\n'.join(section(lines, 'In short'))


def test_the_whole_study_fits_and_a_check_finds_what_differs(run_tool, tmp_path):
    tables = {f'losses_{data}': runs(data, LOSSES, classes) for data, classes in CLASSES.items()}
    tables['mixed_bccd'] = runs(
        'bccd', {name: [0.5, 0.6] for name in ('ghm', 'focal_smooth', 'ghmc_l1')}
    )
    tables['shuffled_bccd'] = tables['losses_bccd']
    settings = 'momentum_0.75', 'momentum_0', 'momentum_0.9'
    tables['pooled_bccd'] = runs('bccd', dict(pooled=[0.6, 0.6]))
    tables['momentum_bccd'] = runs('bccd', {name: [0.5, 0.5] for name in settings})
    tables['imagenet_microcontroller'] = runs('microcontroller', LOSSES)
    rates = {f'{loss} lr={rate}': [0.1] for loss in LOSSES for rate in ('3e-4', '1e-3', '3e-3')}
    tables['lr_grid'] = [row for data in CLASSES for row in runs(data, rates)]
    lines = make(run_tool, tmp_path, **tables)
    assert len(lines) <= 170
    # All differences of 0: nothing can be seen, and no number of seeds would show it.
    row = '| BCCD | momentum 0.9 | 2 | 0.500 (0.500 to 0.500) | 1.000 | 7 | +0.000 '
    assert f'{row}(+0.000 to +0.000) | no difference seen |' in lines
    assert '- **counts of all levels together**: higher AP than momentum 0.75 on BCCD.' in lines
    (picture,) = (tmp_path / 'docs/results').glob('*.png')
    assert picture.name == 'losses.png'
    assert picture.stat().st_size <= 150_000

    check = TOOL, '--check', '--docs', 'docs'
    assert run_tool(*check) == (0, '', '')
    page = tmp_path / 'docs/choosing_a_loss.md'
    page.write_text(page.read_text('utf-8').replace('(0.470 to', '(0.480 to', 1), 'utf-8')
    save(tmp_path / 'docs/results', 'losses_bccd', runs('bccd', dict(LOSSES, ce=[0.5, 0.5, 0.5])))
    before = page.read_bytes(), picture.read_bytes()
    code, out, _ = run_tool(*check)
    assert code == 1
    assert '-| BCCD | GHM-C + GHM-R | 3 | 0.520 (0.480 to 0.570)' in out
    assert '+| BCCD | GHM-C + GHM-R | 3 | 0.520 (0.470 to 0.570)' in out
    assert 'docs/results/losses.png was drawn from other curves' in out
    assert (page.read_bytes(), picture.read_bytes()) == before
    picture.unlink()
    assert 'docs/results/losses.png does not exist' in run_tool(*check)[1]
    assert not picture.exists()

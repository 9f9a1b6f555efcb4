"""Tables of runs: read, written, summarised by hand-worked numbers, and shown."""

import html
import math
import re

import numpy as np
import pytest
from comparison.tables import (
    draw_bands,
    draw_differences,
    make_tables,
    read_rows,
    summarise,
    write_comparison,
    write_rows,
)

AP, AP50 = 'coco/bbox_mAP', 'coco/bbox_mAP_50'
T2 = 4.302652729911275  # t(0.975, 2)


def run(variant, seed, ap, data='bccd', state='finished', **metrics):
    metrics = ({} if ap is None else {AP: ap}) | metrics
    return {'data': data, 'variant': variant, 'seed': seed, 'state': state, **metrics}


def runs_of(variant, values, **kwargs):
    return [run(variant, seed, value, **kwargs) for seed, value in enumerate(values)]


FOCAL = runs_of('focal', [0.30, 0.32, 0.34])
GHM = runs_of('ghm', [0.32, 0.36, 0.37])


def find(summary, variant, metric=AP):
    [row] = [r for r in summary if (r['variant'], r['metric']) == (variant, metric)]
    return row


def test_means_and_paired_differences_by_hand():
    """Focal: mean 0.32, deviation 0.02. The differences are 0.02, 0.04, 0.03: 0.03 and 0.01.

    Seeds needed: (4.303 + 1.061)^2 / 9 = 3.2 > 3, (3.182 + 0.978)^2 / 9 = 1.9 <= 4.
    """
    summary = summarise(FOCAL + GHM)
    focal, ghm = find(summary, 'focal'), find(summary, 'ghm')
    half = T2 * 0.02 / math.sqrt(3)
    expected = {'seeds': 3, 'mean': 0.32, 'deviation': 0.02, 'low': 0.32 - half}
    assert {key: focal[key] for key in expected} == pytest.approx(expected)
    empty = 'difference', 'difference_low', 'paired_seeds', 'seeds_needed', 'outcome'
    assert [focal[key] for key in empty] == [None] * 5
    half = T2 * 0.01 / math.sqrt(3)
    expected = {'difference': 0.03, 'difference_deviation': 0.01, 'difference_low': 0.03 - half}
    expected |= {'difference_high': 0.03 + half, 'paired_seeds': 3, 'seeds_needed': 4}
    assert {key: ghm[key] for key in expected} == pytest.approx(expected)
    assert ghm['outcome'] == 'higher'
    assert find(summarise(GHM + FOCAL), 'focal')['outcome'] == 'lower'


def test_a_failed_run_is_left_out_and_pairs_are_those_of_both():
    """Focal has seeds 0 and 2, ghm 1 and 2: one pair, 0.37 - 0.34."""
    failed = run('focal', 1, 0.9, state='failed: killed')
    summary = summarise([FOCAL[0], failed, FOCAL[2], *GHM[1:]])
    focal, ghm = find(summary, 'focal'), find(summary, 'ghm')
    assert (focal['seeds'], focal['mean']) == (2, pytest.approx(0.32))
    assert (ghm['seeds'], ghm['paired_seeds'], ghm['difference_low']) == (2, 1, None)
    assert ghm['difference'] == pytest.approx(0.03)
    assert ghm['outcome'] == 'one seed: cannot tell'
    [table] = make_tables(summary)
    assert table.rows[1][1] == '2, 1 paired'


def test_the_first_variant_stays_the_reference_if_all_its_runs_failed():
    summary = summarise([run('focal', 0, None, state='failed: x'), *GHM])
    focal, ghm = find(summary, 'focal'), find(summary, 'ghm')
    assert (focal['seeds'], focal['mean'], focal['outcome']) == (0, None, None)
    assert (ghm['paired_seeds'], ghm['difference'], ghm['outcome']) == (0, None, 'not measured')


def test_values_without_ground_truth_are_missing_and_nan_is_not():
    first = runs_of('a', [0.3, 0.3, 0.3], **{'coco/bbox_mAP_s': -1.0})
    second = runs_of('b', [0.3, -1.0, 0.5])
    third = runs_of('c', [0.3, math.nan, 0.3])
    summary = summarise(first + second + third)
    assert find(summary, 'a', 'coco/bbox_mAP_s')['seeds'] == 0
    assert find(summary, 'b')['seeds'] == 2
    assert find(summary, 'b')['mean'] == pytest.approx(0.4)
    nan = find(summary, 'c')
    assert all(math.isnan(nan[key]) for key in ('mean', 'low', 'difference', 'difference_high'))
    assert (nan['seeds'], nan['outcome'], nan['seeds_needed']) == (3, 'not measured', None)


def test_each_data_set_has_its_own_metrics_and_costs():
    cats = runs_of('a', [0.1, 0.2], data='cats', **{'coco/cat_precision': 0.5})
    dogs = runs_of('a', [0.1], data='dogs', **{'coco/dog_precision': 0.4}, minutes=3.0)
    found = [(row['data'], row['metric']) for row in summarise(cats + dogs)]
    assert found == [
        *[('cats', AP), ('cats', 'coco/cat_precision')],
        *[('dogs', AP), ('dogs', 'coco/dog_precision'), ('dogs', 'minutes')],
    ]


def test_the_costs_have_no_outcome():
    rows = runs_of('a', [0.1] * 2, minutes=2.0) + runs_of('b', [0.1] * 2, minutes=5.0)
    row = find(summarise(rows), 'b', 'minutes')
    assert (row['mean'], row['difference'], row['outcome']) == (5, 3, None)


@pytest.mark.follows('leave all but one out')
def test_a_run_that_is_there_twice():
    with pytest.raises(ValueError, match='bccd, ghm, seed 1 is there 2 times; leave all but one'):
        summarise(FOCAL + GHM + GHM[1:2])
    assert find(summarise(FOCAL + GHM), 'ghm')['seeds'] == 3
    failed = run('ghm', 1, None, state='failed: killed')  # a second try after it
    assert find(summarise([*FOCAL, failed, *GHM]), 'ghm')['seeds'] == 3


def test_rows_come_back_as_they_were(tmp_path):
    """Also names that look like numbers, and metrics that stand behind those of a failed run."""
    rows = [
        run('0.75', 0, None, data='7', state='failed: a, "b"', iterations=5, commit='12e4567'),
        run('x|y', 1, 0.1 + 0.2, data='细胞', **{'coco/a,b_precision': 1 / 3, AP50: math.nan}),
        run('x|y', 2, np.float64(1e-17), iterations=9, minutes=0.1, torch='2.9', threads='1 + 2'),
    ]
    write_rows(tmp_path / 'runs.csv', rows)
    content = (tmp_path / 'runs.csv').read_bytes()
    assert b'\r' not in content
    header = f'data,variant,seed,state,{AP},"coco/a,b_precision",{AP50},iterations,minutes,commit'
    assert content.decode().startswith(f'{header},torch,threads\n7,0.75,0,"failed: a, ""b"""')
    found = read_rows(tmp_path / 'runs.csv')
    assert math.isnan(found[1].pop(AP50))
    del rows[1][AP50]
    assert found == rows
    assert [type(row['seed']) for row in found] == [int] * 3


def test_line_breaks_in_texts_become_blanks(tmp_path):
    write_rows(tmp_path / 'a.csv', [run('a\r\nb', 0, 0.5, state='failed: 1 %\r2 %\nend')])
    [row] = read_rows(tmp_path / 'a.csv')
    assert (row['variant'], row['state']) == ('a b', 'failed: 1 % 2 % end')


def test_no_rows(tmp_path):
    write_rows(tmp_path / 'a.csv', [])
    assert read_rows(tmp_path / 'a.csv') == []
    assert summarise([]) == []


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', r'comma-separated with the columns data, variant and seed; data, seed, variant miss'),
        ('data;variant;seed\na;b;1', r"data, seed, variant missing in \['data;variant;seed'\]"),
        ('data,variant\na,b', r"seed missing in \['data', 'variant'\]"),
        ('data,variant,seed\n\na,b,1.5', r"csv, line 3: seed must be an integer, got '1.5'"),
        ('data,variant,seed\na,b,1,2', r'csv, line 2: 4 cells, but 3 columns'),
        ('data,variant,seed\na,,1', r'csv, line 2: data, variant or seed is empty'),
    ],
)
@pytest.mark.follows('comma-separated with the columns', 'must be an integer, got')
def test_files_that_are_no_such_table(tmp_path, text, message):
    (tmp_path / 'a.csv').write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / 'a.csv')
    text = text.replace(';', ',').replace('1.5', '1')  # what the messages ask for
    if text.endswith('a,b,1'):
        (tmp_path / 'a.csv').write_text(text, encoding='utf-16')  # as spreadsheets save it
        assert read_rows(tmp_path / 'a.csv') == [{'data': 'a', 'variant': 'b', 'seed': 1}]


MARKDOWN = r"""# Comparison

- base config: configs/a\_.py

## bccd

AP of each variant; differences to focal

| variant | seeds | AP | AP50 | difference of AP | outcome | seeds needed | minutes | memory (GB) |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| focal | 3 | 0.320 ± 0.020 [0.270, 0.370] | 0.500 ± 0.000 [0.500, 0.500] | - | - | - | 6.0 | 1.50 |
| ghm | 3 | 0.350 ± 0.026 [0.284, 0.416] | - | +0.030 [+0.005, +0.055] | higher | 4 | - | - |

AP of each class; differences to focal

| class | variant | AP | difference | outcome |
| --- | --- | --- | --- | --- |
| RBC | focal | 0.400 ± 0.000 [0.400, 0.400] | - | - |
| RBC | ghm | - | - | not measured |

## Runs left out

Not in any mean

| data | variant | seed | state |
| --- | --- | --- | --- |
| bccd | ghm | 3 | failed: out of memory |

## How to read this
"""


def test_markdown_by_hand(tmp_path):
    """Ghm: mean 0.35, deviation sqrt((0.03^2 + 0.01^2 + 0.02^2) / 2) = 0.02646."""
    metrics = {
        AP50: 0.5,
        'coco/bbox_mAP_s': 0.1,
        'coco/bbox_mAP_75': 0.2,
        'coco/RBC_precision': 0.4,
    }
    focal = [row | metrics | {'minutes': 6.0, 'memory_mb': 1536} for row in FOCAL]
    failed = run('ghm', 3, None, state='failed: out of memory')
    write_comparison(tmp_path, [*focal, *GHM, failed], [], {'base config': 'configs/a_.py'})
    text = (tmp_path / 'comparison.md').read_text(encoding='utf-8')
    assert text[: len(MARKDOWN)] == MARKDOWN
    assert 'have 1 differences with an interval' in text
    assert 'on average 0.1 of them' in text  # 0.05
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *['comparison.csv', 'comparison.html', 'comparison.md', 'curves.csv', 'runs.csv']
    ]
    [_, row, *_] = read_comparison(tmp_path)
    assert row[:4] == ['bccd', AP, 'ghm', '3']
    assert row[-3:] == ['3', '4', 'higher']


def read_comparison(folder):
    lines = (folder / 'comparison.csv').read_text(encoding='utf-8').splitlines()
    names = 'seeds,mean,deviation,low,high,difference,difference_deviation,difference_low'
    names += ',difference_high,paired_seeds,seeds_needed,outcome'
    assert lines[0] == f'data,metric,variant,{names}'
    return [line.split(',') for line in lines[1:]]


def test_another_evaluator_and_many_seeds():
    """The first metric takes the place of AP. The differences are 0.1 and -0.099.

    Mean 0.0005, deviation 0.1407: 7.85 * 281.4^2 = 622,000 seeds, which is not shown.
    """
    rows = [
        run('a', 0, None, **{'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.6}),
        run('a', 1, None, **{'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.6}),
        run('b', 0, None, **{'pascal_voc/mAP': 0.6, 'pascal_voc/AP50': 0.6}),
        run('b', 1, None, **{'pascal_voc/mAP': 0.401, 'pascal_voc/AP50': 0.6}),
    ]
    main, others = make_tables(summarise(rows))
    assert main.header[2:4] == ['mAP', 'difference of mAP']
    assert main.rows[1][4:] == ['no difference seen', '-', '-', '-']
    assert others.header[0] == 'metric'
    assert others.rows[1] == [
        *('AP50', 'b', '0.600 ± 0.000 [0.600, 0.600]', '+0.000 [+0.000, +0.000]'),
        'no difference seen',
    ]


def test_names_break_neither_markdown_nor_html(tmp_path):
    names = 'x|y', '<b>b</b>', '细胞\nzwei', '[a](http://b)', '$x_1$', '\\|', '__c__', '\udcff'
    curves = []
    for data in names[:3]:
        curves += [run(name, 0, 0.2, data, iter=1) | {AP: 0.2} for name in names]
    runs = [
        run(name, 0, 0.2, data, **{f'coco/{data}_precision': 0.1})
        for data in names[:3]
        for name in names
    ]
    runs.append(run('__c__', 1, None, 'x|y', state='failed: <i> | \r\n `'))
    write_comparison(tmp_path, runs, curves, {'a|b': '<c>\n| d'})
    text = (tmp_path / 'comparison.md').read_text(encoding='utf-8')
    tables = [line for line in text.splitlines() if line.startswith('|')]
    widths = [len(re.sub(r'\\.', '', line).split('|')) - 2 for line in tables]
    assert widths == ([8] * 10 + [5] * 10) * 3 + [4] * 3
    plain = re.sub(r'\\.', '', text)
    assert not re.search(r'<|`|\]\(h|__', plain)
    page = (tmp_path / 'comparison.html').read_text(encoding='utf-8')
    assert not re.search(r'<(b|i|c|script)>|https?://(?!b\))', page)
    cells = {html.unescape(cell) for cell in re.findall('<bdi>(.*?)</bdi>', page, re.DOTALL)}
    assert {*names[:-1], '\\udcff', 'failed: <i> | \n `', '<c>\n| d'} <= cells
    assert len(re.findall('<svg', page)) == 6  # curves and differences of each data set


def test_bands_by_hand():
    """At iteration 20 the seeds have 0.30, 0.32, 0.34: 0.32 ± 4.303 * 0.02 / sqrt(3) = 0.0497."""
    rows = [row | {'iter': 20} for row in FOCAL]
    rows += [row | {'iter': 10, AP: 0.1} for row in FOCAL]
    rows.append(run('_one', 0, 0.2, iter=20))
    rows.append(run('voc', 0, None, data='$other', iter=5, **{'pascal_voc/mAP': 0.7}))
    figure = draw_bands(rows)
    axes, other = figure.axes
    assert [axes.get_title(), axes.get_ylabel(), other.get_ylabel()] == ['bccd', 'AP', 'mAP']
    line, one = axes.lines
    assert (line.get_xdata().tolist(), line.get_ydata()) == ([10, 20], pytest.approx([0.1, 0.32]))
    band, none = axes.collections
    points = band.get_paths()[0].vertices
    assert {y.round(5) for x, y in points if x == 20} == {0.27032, 0.36968}
    assert not none.get_paths()
    assert one.get_ydata() == [0.2]
    assert [text.get_text().strip('\u200b') for text in axes.get_legend().texts] == [
        'focal',
        '_one',
    ]
    assert other.lines[0].get_color() != line.get_color()
    figure.canvas.draw()  # `$` in the title is no formula


def test_differences_are_drawn_with_their_intervals():
    summary = summarise(FOCAL + GHM + [run('one', 0, 0.2)])
    rows = [find(summary, 'ghm'), find(summary, 'one')]
    axes = draw_differences(rows, 'AP').axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ['ghm', 'one']
    (dots, _, [bar]), (one, _, bars) = axes.containers
    assert dots.get_xdata() == pytest.approx([0.03])
    assert bar.get_segments()[0][:, 0] == pytest.approx([0.005159, 0.054841], abs=1e-6)
    assert (one.get_xdata(), bars) == (pytest.approx([-0.1]), ())


def test_nothing_finished(tmp_path):
    write_comparison(tmp_path, [run('a', 0, None, state='failed: x')], [], {})
    for name in ('comparison.md', 'comparison.html'):
        text = (tmp_path / name).read_text(encoding='utf-8')
        assert 'No run has finished with a validation.' in text
        assert 'failed: x' in text


def test_written_again_the_files_are_the_same(tmp_path):
    curves = [row | {'iter': 20} for row in FOCAL]
    files = []
    for _ in range(2):
        write_comparison(tmp_path, FOCAL + GHM, curves, {})
        files.append({file.name: file.read_bytes() for file in tmp_path.iterdir()})
    assert files[0] == files[1]
    assert '![Curves over the iterations](curves.png)' in files[0]['comparison.md'].decode()
    assert len(files[0]) == 6

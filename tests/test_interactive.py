"What a page of `write_map` promises: it loads nothing, no text breaks it, it opens in a browser."
import base64, gzip, json, re, shutil, subprocess
from html.parser import HTMLParser
import numpy as np, polars as pl, pytest
from barcodemae.core import InputError
from barcodemae.evaluation.interactive import MapOptions, write_map

HOSTILE = '</script><img src=x onerror="document.title=1"><!--<script>&lt;b>{style}$x$\'"\\ \u2028'
CASES = dict(
    one=dict(id=['FRG1'], order=['Diptera']),
    hostile={'id': [HOSTILE, 'b', 'b'], HOSTILE: [HOSTILE, '', 'x'],
             'genus': ['constructor', '__proto__', 'nan']},
    unnamed=dict(id=['a', '', 'c'], species=['', None, float('nan')], bin=['', '', '']),
    unicode=dict(id=['蚊-1', 'é', '🦟' * 50], genus=['Ædes', 'Γένος', '属' * 90]),
    many=dict(id=[f'q{i}' for i in range(300)], species=[f's{int(i ** .5)}' for i in range(300)]),
)

class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs): self.tags.append((tag, dict(attrs)))

def written(folder, table, options=MapOptions()):
    xy = np.random.default_rng(0).normal(size=(len(table['id']), 2))
    write_map(folder / 'map.html', xy, table, options)
    return (folder / 'map.html').read_text(encoding='utf-8')

def unpacked(page, part):
    return gzip.decompress(base64.b64decode(re.search(f'id="{part}">([^<]*)<', page)[1])).decode()

@pytest.mark.parametrize('case', CASES)
def test_the_page_loads_nothing(case, tmp_path):
    tags = Tags(written(tmp_path, CASES[case], MapOptions(HOSTILE, HOSTILE))).tags
    ours = 'html head meta title style body header div h1 p label select option input output script'
    assert {t for t, _ in tags} == set(ours.split())
    assert not [a for _, a in tags if {'src', 'href', 'action', 'srcset'} & set(a)]
    policy = next(a['content'] for t, a in tags if a.get('http-equiv') == 'Content-Security-Policy')
    assert policy.startswith("default-src 'none'") and 'http' not in policy
    assert len([t for t, _ in tags if t == 'script']) == 3

def test_columns_are_sorted_by_frequency(tmp_path):
    data = json.loads(unpacked(written(tmp_path, CASES['many']), 'data'))
    (column,), shown = data['columns'], data['options']['color_by']
    counts = np.bincount(column['codes'])[1:]
    assert shown == 'species' and (np.diff(counts) <= 0).all() and counts.sum() == 300
    assert [column['values'][c - 1] for c in column['codes']] == CASES['many']['species']
    assert data['ids'] == CASES['many']['id']

def test_frames_as_dicts(tmp_path):
    page, table = written(tmp_path, CASES['unnamed']), CASES['unnamed'] | dict(species=['', None, None])
    for frame in pl.DataFrame(table), pytest.importorskip('pandas').DataFrame(table):
        assert written(tmp_path, frame) == page

@pytest.mark.parametrize('xy, table, said', [
    (np.zeros((2, 3)), dict(id=['a', 'b'], g=['', '']), r'\(2, 3\) for 2 ids'),
    (np.zeros((0, 2)), dict(id=[], g=[]), 'for 0 ids'),
    ([[0, 0], [np.nan, 1]], dict(id=['a', 'b'], g=['', '']), 'b: its position is not finite'),
    (np.zeros((1, 2)), dict(id=['a']), 'no column'),
    (np.zeros((1, 2)), dict(id=['a'], g=['', 'x']), 'g: 2 values for 1 ids')])
def test_bad_input_is_told_and_leaves_the_old_file(xy, table, said, tmp_path):
    (tmp_path / 'map.html').write_text('old')
    with pytest.raises(InputError, match=said): write_map(tmp_path / 'map.html', xy, table)
    assert (tmp_path / 'map.html').read_text() == 'old' and len(list(tmp_path.iterdir())) == 1

@pytest.mark.skipif(not shutil.which('chromium'), reason='chromium is not installed')
@pytest.mark.parametrize('case', CASES)
def test_the_page_opens(case, tmp_path):
    written(tmp_path, CASES[case], MapOptions(HOSTILE, HOSTILE))
    flags = '--headless --no-sandbox --enable-unsafe-swiftshader --virtual-time-budget=20000 --dump-dom'
    command = ['chromium', *flags.split(), f'--user-data-dir={tmp_path}/user', f'file://{tmp_path}/map.html']
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    tags = Tags(dom).tags
    assert ('body', {'data-ready': 'yes'}) in tags # the script came to its end
    assert [t for t, a in tags if 'gl-canvas' in a.get('class', '')]
    assert f"{len(CASES[case]['id'])} barcode" in dom
    assert not [t for t, a in tags if a.get('src') == 'x' or 'onerror' in a]
    assert ('option', {'value': '0'}) in tags

"""Guards for tools/outputs.py: outputs older than their source are named, and a run alone makes them good."""
import importlib.util
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('outputs_tool', ROOT/'tools/outputs.py')
outputs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(outputs)

CELLS = [
    '#| export\n\nimport os, sys\nfrom pathlib import Path',
    'print("one")\nprint("a warning", file=sys.stderr)\nprint("two")',
    'print(str(Path.cwd()) == os.environ["HERE"])\n'
    'os.environ["PATH"].startswith(str(Path(sys.executable).parent))',
    'print("only a warning", file=sys.stderr)',
    '#| eval: false\nraise ValueError("never run")',
    '1 + 1',
]


@pytest.fixture
def path(tmp_path, monkeypatch):
    "A notebook as it is written by hand, with outputs of nobody knows what."
    monkeypatch.setenv('HERE', str(tmp_path.resolve()))
    old = lambda: [new_output('stream', text='an output of long ago\n')]
    cells = [new_code_cell(source, outputs=old(), metadata={'collapsed': True}) for source in CELLS]
    cells[0].metadata.tags = ['parameters']
    cells = [new_markdown_cell('# Title'), *cells, new_code_cell('', outputs=old())]
    nbformat.write(new_notebook(cells=cells), tmp_path/'x.ipynb')
    return tmp_path/'x.ipynb'


def read(path): return nbformat.read(path, as_version=4)


def edit(path, number, source):
    "Change the source of a cell, its output stays: what an editor does."
    nb = read(path)
    nb.cells[number - 1].source = source
    nbformat.write(nb, path)


def stale(path): return [(number, wrong) for number, _, wrong in outputs.stale(read(path))]


def texts(path):
    code = [c for c in read(path).cells if c.cell_type == 'code']
    return [[o.get('text') or o.data['text/plain'] for o in c.outputs] for c in code]


def test_a_run_makes_all_outputs_new_and_stamps_them(path):
    outputs.main(['run', str(path)])
    assert texts(path) == [[], ['one\ntwo\n'], ['True\n', 'True'], [], ['an output of long ago\n'], ['2'], []]
    stamped = [c.metadata.get(outputs.KEY) == outputs.source_hash(c.source) for c in read(path).cells]
    assert stamped == [False, False, True, True, False, False, True, False]
    assert stale(path) == [(6, 'output without a stamp')] # it is never run, so nobody knows
    assert [p.name for p in path.parent.iterdir()] == ['x.ipynb']


def test_what_is_written_is_clean_and_cleaning_keeps_the_stamps(path, monkeypatch):
    from nbdev.clean import nbdev_clean
    monkeypatch.chdir(ROOT) # where nbdev finds which keys to keep
    outputs.main(['run', str(path)])
    cells, before = read(path).cells, path.read_bytes()
    assert cells[1].metadata == {'tags': ['parameters']} and not any(c.get('execution_count') for c in cells)
    nbdev_clean(fname=str(path))
    assert path.read_bytes() == before and cells[2].metadata == {outputs.KEY: outputs.source_hash(CELLS[1])}


def test_a_cell_that_changed_since_is_named(path, capsys):
    outputs.main(['run', str(path)])
    nb = read(path)
    nb.cells[5].outputs = [] # of the cell that is never run
    nbformat.write(nb, path)
    capsys.readouterr()
    outputs.main(['check', str(path)])
    assert capsys.readouterr().out == ''
    edit(path, 7, '\n#| hide_input\n\n1 + 2  # three\nNone')
    with pytest.raises(SystemExit, match=r'Fix: python tools/outputs.py run .*x\.ipynb'):
        outputs.main(['check', str(path)])
    assert capsys.readouterr().out == f'{path.resolve()}, cell 7: source changed since: 1 + 2  # three\n'
    outputs.main(['run', str(path)])
    outputs.main(['check', str(path)])


@pytest.mark.parametrize('source, same', [
    ('x = 1\nx', True), ('x = 1  \nx\n\n', True), ('x = 1\r\nx', True),
    ('x = 1\n\nx', False), ('x = 2\nx', False), ('x = 1\n x', False), ('', False)])
def test_only_white_space_at_ends_does_not_count(source, same):
    assert (outputs.source_hash(source) == outputs.source_hash('x = 1\nx')) == same


def test_a_notebook_that_fails_stays_as_it_was(path):
    edit(path, 4, '# half\n1/0')
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=r'(?s)ZeroDivisionError.*x\.ipynb, cell 4 failed: # half.*Fix:'):
        outputs.main(['run', str(path)])
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ['x.ipynb']


def test_stamping_without_running_is_for_the_first_time_only(path, capsys):
    with pytest.raises(SystemExit): outputs.main(['stamp', str(path)])
    assert 'Fix: python tools/outputs.py run' in capsys.readouterr().err and len(stale(path)) == 7
    outputs.main(['stamp', '--adopt', str(path)])
    assert not stale(path) and texts(path) == [['an output of long ago\n']] * 7
    edit(path, 3, 'print("three")')
    outputs.main(['stamp', '--adopt', str(path)])
    assert stale(path) == [(3, 'source changed since')]


@pytest.mark.parametrize('text', ['{"cells": [', '{"a": 1}', '[]', '\xff'])
def test_a_file_that_is_no_notebook_is_named(tmp_path, text):
    (tmp_path/'y.ipynb').write_text(text, encoding='latin-1')
    with pytest.raises(SystemExit, match=r'y\.ipynb.*Fix'): outputs.main(['check', str(tmp_path/'y.ipynb')])
    with pytest.raises(SystemExit, match=r'z\.ipynb.*Fix'): outputs.main(['check', str(tmp_path/'z.ipynb')])


def test_all_notebooks_of_the_project_are_meant(monkeypatch, tmp_path):
    for name in ('nbs/a.ipynb', 'nbs/x/y/b.ipynb', 'nbs/_draft.ipynb', 'nbs/.hidden/a.ipynb', 'runs/c.ipynb'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/name).touch()
    monkeypatch.setattr(outputs, 'ROOT', tmp_path)
    assert [outputs.shown(p) for p in outputs.notebooks()] == ['nbs/a.ipynb', 'nbs/x/y/b.ipynb']
    with pytest.raises(SystemExit): outputs.main(['run']) # all of them would take hours

"""Guards for tools/readme.py: numbers in sentences come from cells, and are what kept results give today."""
import copy, importlib.util, re
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent


def tool(name):
    spec = importlib.util.spec_from_file_location(f'{name}_tool', ROOT/f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


readme, outputs, docs = tool('readme'), tool('outputs'), tool('docs')
SENTENCE = '''#| echo: false
from pathlib import Path
import json
from IPython.display import Markdown
kept = json.loads(Path('experiments/kept.json').read_text())
links = '[how](experiments/e.ipynb), [licence](../LICENSE), [web](https://example.org)'
Markdown(f"Genus: **{kept['genus']:.1f}** % ({links}).")'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project with one number, 87.64, in a kept result, and an index that tells it."
    cells = [new_markdown_cell('# Home\n\nRead [on](experiments/e.ipynb).'), new_code_cell(SENTENCE)]
    (tmp_path/'nbs/experiments').mkdir(parents=True)
    (tmp_path/'LICENSE').write_text('MIT')
    (tmp_path/'nbs/experiments/kept.json').write_text('{"genus": 87.64}')
    nbformat.write(new_notebook(cells=cells), tmp_path/'nbs/index.ipynb')
    nbformat.write(new_notebook(cells=[new_markdown_cell('# E')]), tmp_path/'nbs/experiments/e.ipynb')
    places = dict(ROOT='.', NOTEBOOK='nbs/index.ipynb', README='README.md', PICTURES='figures/readme')
    for name, place in places.items(): monkeypatch.setattr(readme, name, tmp_path/place)
    return tmp_path


def test_a_sentence_has_its_number_from_a_kept_result_and_its_links_from_the_root(project):
    outputs.main(['run', str(readme.NOTEBOOK)])
    readme.write()
    assert readme.README.read_text() == readme.NOTE + (
        '# Home\n\nRead [on](nbs/experiments/e.ipynb).\n\nGenus: **87.6** % '
        '([how](nbs/experiments/e.ipynb), [licence](LICENSE), [web](https://example.org)).\n')
    assert not readme.stale()


def test_another_result_makes_the_readme_stale(project):
    outputs.main(['run', str(readme.NOTEBOOK)])
    readme.write()
    (project/'nbs/experiments/kept.json').write_text('{"genus": 90}')
    outputs.main(['run', str(readme.NOTEBOOK)])
    assert readme.stale() == ['README.md']
    readme.write()
    assert '**90.0** %' in readme.README.read_text() and not readme.stale()


def test_a_result_that_is_not_there_is_named_and_the_index_stays(project):
    before = readme.NOTEBOOK.read_bytes()
    (project/'nbs/experiments/kept.json').write_text('{}')
    with pytest.raises(SystemExit, match=r"(?s)KeyError.*genus.*index\.ipynb, cell 2 failed"):
        outputs.main(['run', str(readme.NOTEBOOK)])
    assert readme.NOTEBOOK.read_bytes() == before


def test_pages_show_the_sentence_too(project):
    outputs.main(['run', str(readme.NOTEBOOK)])
    docs.build(project/'nbs', project/'docs')
    page = (project/'docs/index.html').read_text()
    assert '<strong>87.6</strong>' in page and 'href="experiments/e.html"' in page and 'Markdown(' not in page


def text_of(nb):
    "The text of all outputs, without addresses of objects."
    parts = [[o.get('text', ''), *(v for k, v in sorted(o.get('data', {}).items()) if k.startswith('text/'))]
             for c in nb.cells if c.cell_type == 'code' for o in c.outputs]
    return [re.sub(' at 0x[0-9a-f]+', '', text) for texts in parts for text in texts]


def test_the_index_tells_what_kept_results_give_today():
    kept = nbformat.read(readme.NOTEBOOK, as_version=4)
    assert text_of(outputs.execute(copy.deepcopy(kept), readme.NOTEBOOK)) == text_of(kept), \
        'kept results changed. Fix: python tools/outputs.py run nbs/index.ipynb, then make readme'

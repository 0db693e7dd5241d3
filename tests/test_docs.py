"""Guards for tools/docs.py: pages, links, search, notebooks that are broken, a build that is killed."""
import importlib.util, json, re, shutil, subprocess
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from barcodemae.core import InputError

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('docs_tool', ROOT/'tools/docs.py')
docs = importlib.util.module_from_spec(spec); spec.loader.exec_module(docs)


def put(path, *cells):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
    nbformat.write(new_notebook(cells=cells), path)


ZEBRAS = """#| export
from barcodemae.data.b import grass
STRIPES = 3
def count_zebras(n): return n
def _inner(): pass"""
SAID = [new_output('stream', text='seven\n'), new_output('stream', name='stderr', text='a warning')]


@pytest.fixture
def nbs(tmp_path):
    nbs, code = tmp_path/'nbs', new_code_cell
    put(nbs/'index.ipynb', '# Home', 'See [the licence](../LICENSE), [experiments](experiments) and '
        '<https://example.org/x.ipynb>.')
    put(nbs/'a.ipynb', '# First chapter', 'Of $k^2$ words, [more](b.ipynb#Zebras), `$PATH` stays.',
        code('#| default_exp data.a'), code(ZEBRAS), code('#| hide\nsecret = 1'),
        code('html = \'<a href="nowhere.ipynb">\'\nprint(7)', outputs=SAID))
    put(nbs/'b.ipynb', '# Second chapter', '## Zebras', 'They have <b>stripes</b> and a mane.', '## Giraffes',
        'Tall; see [an experiment](experiments/e.ipynb).', code('#| default_exp data.b'))
    put(nbs/'experiments/e.ipynb', '# An experiment', 'Back to [the first](../a.ipynb).')
    (tmp_path/'LICENSE').write_text('MIT')
    return nbs


@pytest.fixture
def site(nbs):
    docs.build(nbs, nbs.parent/'docs')
    return nbs.parent/'docs'


def index(site): return json.loads((site/'index.js').read_text().removeprefix('const INDEX = '))


def test_every_link_leads_somewhere(site):
    pages = sorted(site.rglob('*.html'))
    there = [str(p.relative_to(site)) for p in pages]
    assert there == ['a.html', 'b.html', 'experiments/e.html', 'index.html']
    for page in pages:
        text = re.sub('<pre.*?</pre>', '', page.read_text(), flags=re.S)
        for url in re.findall(r'(?:href|src)="([^"]*)"', text):
            if re.match(r'(https|data):', url): continue
            path, _, anchor = url.partition('#')
            target = (page.parent/path).resolve() if path else page
            assert target.exists(), (page.name, url)
            if anchor: assert f'id="{anchor}"' in target.read_text(), (page.name, url)
            assert target.suffix != '.ipynb', (page.name, url)


def test_pages_read_without_a_network(site):
    foreign = r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//'
    for file in site.rglob('*.html'): assert not re.search(foreign, file.read_text())


def test_side_bar_is_in_the_order_of_reading(site):
    "Index, then by packages; in a package each after those that it builds on; experiments."
    nav = re.search('<nav>.*?</nav>', (site/'experiments/e.html').read_text(), flags=re.S)[0]
    links = ['../index.html', '../b.html', '../a.html', '../experiments/e.html']
    assert re.findall(r'href="(.*?)"', nav) == links and 'class=here>An experiment' in nav
    assert re.findall('<b>(.*?)</b>', nav) == ['Data', 'Experiments']


def test_what_is_shown(site):
    text = (site/'a.html').read_text()
    shown = ('count_zebras', 'seven', 'nowhere.ipynb', 'celltag_exported', 'alt="k^2"', '$PATH')
    for part in shown: assert part in text, part
    for part in ('secret', 'a warning', '#| export'): assert part not in text, part


def test_search_knows_headings_text_and_exported_names(site):
    found = {s['url']: s for s in index(site)}
    assert found['a.html#First-chapter']['names'] == ['STRIPES', 'count_zebras']
    assert 'mane' in found['b.html#Zebras']['text'] and 'mane' not in found['b.html#Giraffes']['text']
    assert found['b.html#Zebras']['heading'] == 'Zebras'
    assert not any('seven' in s['text'] for s in found.values())                         # an output


@pytest.mark.skipif(not shutil.which('node'), reason='no node to run search.js')
@pytest.mark.parametrize('query, first', [
    ('count_zebras', 'a.html#First-chapter'), ('zebras mane', 'b.html#Zebras'),
    ('STRIPES', 'a.html#First-chapter'), ('tall', 'b.html#Giraffes'), ('unicorn', None), ('', None)])
def test_search_finds(site, query, first):
    code = '\n'.join([(site/'index.js').read_text(), (site/'search.js').read_text(),
                      f'console.log(JSON.stringify(search({json.dumps(query)}).map(s => s.url)))'])
    hits = json.loads(subprocess.run(['node', '-e', code], capture_output=True, text=True, check=True).stdout)
    assert hits[:1] == ([first] if first else [])


def torn(nbs): (nbs/'b.ipynb').write_text((nbs/'b.ipynb').read_text()[:80])
def other_json(nbs): (nbs/'b.ipynb').write_text('{"a": 1}')
def dead_link(nbs): put(nbs/'b.ipynb', '# B', '[gone](c.ipynb)')
def syntax(nbs): put(nbs/'b.ipynb', '# B', new_code_cell('#| export\ndef f('))


@pytest.mark.parametrize('spoil', [torn, other_json, dead_link, syntax], ids=lambda f: f.__name__)
def test_a_broken_notebook_is_named_and_the_old_site_stays(nbs, site, spoil):
    before = {p: p.read_bytes() for p in site.rglob('*') if p.is_file()}
    spoil(nbs)
    with pytest.raises(InputError, match='b.ipynb.*Fix'): docs.build(nbs, site)
    assert {p: p.read_bytes() for p in site.rglob('*') if p.is_file()} == before


def test_a_build_that_is_killed_leaves_the_old_site(nbs, site, monkeypatch):
    before = {p: p.read_bytes() for p in site.rglob('*') if p.is_file()}
    put(nbs/'a.ipynb', '# Changed')
    written, plain = [], Path.write_text
    def stop(self, *args, **kwargs):
        written.append(self)
        if len(written) > 2: raise KeyboardInterrupt
        return plain(self, *args, **kwargs)
    monkeypatch.setattr(Path, 'write_text', stop)
    with pytest.raises(KeyboardInterrupt): docs.build(nbs, site)
    assert {p: p.read_bytes() for p in site.rglob('*') if p.is_file()} == before
    assert sorted(p.name for p in nbs.parent.iterdir()) == ['LICENSE', 'docs', 'nbs']


def test_a_page_that_is_gone_goes(nbs, site):
    put(nbs/'b.ipynb', '# B')
    put(nbs/'index.ipynb', '# Home')
    shutil.rmtree(nbs/'experiments')
    assert docs.build(nbs, site) == 3 and not (site/'experiments').exists()

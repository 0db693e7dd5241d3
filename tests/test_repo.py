"""Guards for the repository as a whole."""
import configparser, importlib.util, json, re, subprocess, tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
ids = lambda p: str(p.relative_to(ROOT))


def cells(path, kind):
    found = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in found if c['cell_type'] == kind]


def exported_module(path):
    found = re.findall(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(cells(path, 'code')), flags=re.M)
    return found[0] if found else None


def tracked():
    ask = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    done = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip('not a git repository')
    return [ROOT/name for name in done.stdout.split('\0') if name and (ROOT/name).is_file()]


ENCODER = ROOT/'barcodemae'/'encoder' # comes with the library


def test_nothing_big_in_git():
    big = [ids(p) for p in tracked() if p.stat().st_size > 1_500_000 and p.parent != ENCODER]
    assert not big and sum(p.stat().st_size for p in ENCODER.iterdir()) < 5_000_000


def test_nothing_made_by_runs_in_git():
    weights = lambda p: p.suffix in ('.safetensors', '.pt') and p.parent != ENCODER
    made = lambda p: weights(p) or p.relative_to(ROOT).parts[0] in ('runs', 'cache', '.venv')
    assert not [ids(p) for p in tracked() if made(p) and p.name != '.gitkeep']


def test_every_module_has_its_notebook():
    modules = {exported_module(p): p for p in NOTEBOOKS if exported_module(p)}
    exporting = [p for p in NOTEBOOKS if exported_module(p)]
    assert len(modules) == len(exporting), 'two notebooks export one module'
    files = [p for p in (ROOT/'barcodemae').rglob('*.py') if not p.stem.startswith('_')]
    made = {'.'.join(p.relative_to(ROOT/'barcodemae').with_suffix('').parts) for p in files}
    assert made == set(modules), 'modules without notebook, or notebooks not exported'


def test_contents_list_every_notebook_as_it_is_now():
    spec = importlib.util.spec_from_file_location('contents_tool', ROOT/'tools/contents.py')
    contents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contents)
    page = json.loads((ROOT/'nbs/contents.ipynb').read_text(encoding='utf-8'))
    outputs = [o for c in page['cells'] for o in c.get('outputs', [])]
    shown = [''.join(o['data']['text/markdown']) for o in outputs if 'data' in o]
    assert [text.strip() for text in shown] == [contents.markdown().strip()], \
        'titles or abstracts changed. Fix: python tools/outputs.py run nbs/contents.ipynb'
    listed = re.findall(r'^\| \[.*?\]\(([\w/]+\.ipynb)\)', shown[0], flags=re.M)
    there = [str(p.relative_to(ROOT/'nbs')) for p in NOTEBOOKS]
    assert sorted([*listed, 'index.ipynb', 'contents.ipynb']) == sorted(there)


def test_the_readme_is_short_and_leads_on():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    first = text.split('\n## ')[0]
    assert len(text.splitlines()) < 200
    assert all(f'start_{who}.ipynb' in first for who in ('biologist', 'researcher', 'engineer'))
    assert 'nbs/contents.ipynb' in text and 'CITATION.cff' in text and '```bibtex' in text


def test_commands_are_called_by_their_name_and_paths_are_what_strangers_have():
    texts = {p: p.read_text(encoding='utf-8', errors='ignore') for p in tracked()
             if p.suffix in ('.md', '.ipynb', '.py', '.sh', '.ini', '') and p.name != Path(__file__).name}
    modules = [ids(p) for p, text in texts.items() if re.search(r'-m barcodemae\.\w', text)]
    assert not modules, 'Fix: barcodemae NAME, as in barcodemae --help'
    beside = [ids(p) for p, text in texts.items() if '../shared' in text]
    assert set(beside) <= {'Makefile', 'data/README.md'}, 'Fix: a name of settings.ini'


def test_experiments_export_nothing():
    assert not [ids(p) for p in NOTEBOOKS if 'experiments' in p.parts and exported_module(p)]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=ids)
def test_outputs_name_no_place_on_this_machine(path):
    outputs = json.dumps([c.get('outputs') for c in json.loads(path.read_text(encoding='utf-8'))['cells']])
    assert not re.findall(r'(?<![\w/.:])/(?:home|Users|root)/[\w./-]+', outputs)
    assert str(ROOT) not in outputs and tempfile.gettempdir() + '/' not in outputs


@pytest.mark.parametrize('path', sorted((ROOT/'nbs').rglob('*.json')), ids=ids)
def test_kept_results_name_no_place_on_this_machine(path):
    text = path.read_text(encoding='utf-8')
    assert not re.findall(r'"/[\w.-]+/[\w./-]+', text) and str(ROOT) not in text


def test_settings_in_the_repository_are_read(monkeypatch):
    from barcodemae.settings import load_settings
    ini = configparser.ConfigParser()
    ini.read(ROOT/'settings.ini')
    assert load_settings(ROOT/'nbs').root == ROOT
    assert set(ini['datasets']) == set(load_settings(ROOT).datasets)


def test_citation_and_changelog_tell_of_this_version_and_paper():
    import yaml, barcodemae
    cite = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    paper, readme = cite['preferred-citation'], (ROOT/'README.md').read_text(encoding='utf-8')
    assert {'cff-version', 'message', 'title', 'authors'} <= set(cite)
    assert cite['version'] == barcodemae.__version__
    said = re.sub(r'\s*\n>\s*', ' ', readme).lower()
    for part in (paper['title'], str(paper['year']), *(a['family-names'] for a in paper['authors'])):
        assert part.lower() in said, f'the README cites another paper: no {part}'
    assert barcodemae.__version__ in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')

"""Guards for the repository as a whole."""
import configparser, json, re, subprocess, tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
ids = lambda p: str(p.relative_to(ROOT))


def cells(path, kind): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]


def exported_module(path):
    found = [m.group(1) for c in cells(path, 'code') if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', c, flags=re.M))]
    return found[0] if found else None


def tracked():
    done = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip('not a git repository')
    return [ROOT/name for name in done.stdout.split('\0') if name and (ROOT/name).is_file()]


ENCODER = ROOT/'barcodemae'/'encoder' # comes with the library


def test_nothing_big_in_git():
    big = {ids(p): p.stat().st_size for p in tracked() if p.stat().st_size > 1_500_000 and p.parent != ENCODER}
    assert not big and sum(p.stat().st_size for p in ENCODER.iterdir()) < 5_000_000


def test_nothing_made_by_runs_in_git():
    made = lambda p: p.suffix in ('.safetensors', '.pt') and p.parent != ENCODER or p.relative_to(ROOT).parts[0] in ('runs', 'cache', '.venv')
    assert not [ids(p) for p in tracked() if made(p) and p.name != '.gitkeep']


def test_every_module_has_its_notebook_and_its_line_in_the_readme():
    modules = {exported_module(p): p for p in NOTEBOOKS if exported_module(p)}
    assert len(modules) == sum(exported_module(p) is not None for p in NOTEBOOKS), 'two notebooks export one module'
    files = [p for p in (ROOT/'barcodemae').rglob('*.py') if not p.stem.startswith('_')]
    made = {'.'.join(p.relative_to(ROOT/'barcodemae').with_suffix('').parts) for p in files}
    assert made == set(modules), 'modules without notebook, or notebooks not exported'
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    missing = [name for name, p in modules.items() if f'`barcodemae.{name}`' not in readme or p.name not in readme]
    assert not missing, f'not listed in nbs/index.ipynb: {missing}'


def test_experiments_export_nothing():
    assert not [ids(p) for p in NOTEBOOKS if 'experiments' in p.parts and exported_module(p)]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=ids)
def test_outputs_name_no_place_on_this_machine(path):
    outputs = json.dumps([c.get('outputs') for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code'])
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
    assert load_settings(ROOT/'nbs').root == ROOT and set(ini['datasets']) == set(load_settings(ROOT).datasets)


def test_citation_and_changelog_tell_of_this_version_and_paper():
    import yaml, barcodemae
    cite = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    paper, readme = cite['preferred-citation'], (ROOT/'README.md').read_text(encoding='utf-8')
    assert {'cff-version', 'message', 'title', 'authors'} <= set(cite) and cite['version'] == barcodemae.__version__
    for part in (paper['title'], str(paper['year']), *(a['family-names'] for a in paper['authors'])):
        assert part.lower() in re.sub(r'\s*\n>\s*', ' ', readme).lower(), f'the README cites another paper: no {part}'
    assert barcodemae.__version__ in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')

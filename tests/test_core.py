"""Guards for the ground: settings, errors, atomic writes, device, metrics.
What teaches something stands in nbs/00_core.ipynb and nbs/ground."""
import errno, json, os, signal, subprocess, sys, textwrap, time
from pathlib import Path

import numpy as np, pytest, torch
from hypothesis import given, strategies as st

from barcodemae import compute, core
from barcodemae.core import InputError, atomic_path, read_json, write_json
from barcodemae.settings import find_dataset, load_settings
from barcodemae.compute import machine_record, probe_compute, seed_everything
from barcodemae.metrics import calibration_error, reliability, species_interval


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    "The machine's own BARCODEMAE_* must not reach these tests."
    for key in [k for k in os.environ if k.startswith('BARCODEMAE_')]: monkeypatch.delenv(key)


@pytest.fixture
def project(tmp_path):
    "A project folder with a settings.ini to be filled, and a folder deep inside."
    (tmp_path/'nbs/experiments').mkdir(parents=True)
    def write(text):
        (tmp_path/'settings.ini').write_text(textwrap.dedent(text))
        return tmp_path
    return write


# settings

def test_settings_found_from_a_subfolder(project, monkeypatch):
    root = project("""
        [paths]
        runs = big/runs
        cache = /elsewhere/cache
        [datasets]
        mine = ../mine.csv
        [defaults]
        dataset = mine
        """)
    monkeypatch.chdir(root/'nbs/experiments')
    s = load_settings()
    assert s.root == root and s.runs == root/'big/runs' and s.cache == Path('/elsewhere/cache')
    assert s.data == root/'data' and s.dataset == 'mine' and s.device == 'auto'
    assert s.datasets == {'demo': root/'data/demo_barcodes.csv.gz', 'mine': root.parent/'mine.csv'}


def test_defaults_without_settings(tmp_path):
    s = load_settings(tmp_path)
    if s.root == tmp_path: assert s.runs == tmp_path/'runs' and s.dataset == 'demo'


def test_environment_goes_first(project, monkeypatch):
    root = project('[paths]\nruns = a\n[datasets]\ncoi-mini = x.csv\n')
    for k, v in dict(RUNS='/big/b', DEVICE='cpu', DATASET='coi-mini', COI_MINI='y.csv', FIGURES='',
        CACHE='~/c').items():
        monkeypatch.setenv(f'BARCODEMAE_{k}', v)
    s = load_settings(root)
    assert (s.runs, s.device, s.dataset) == (Path('/big/b'), 'cpu', 'coi-mini')
    assert s.datasets['coi-mini'] == root/'y.csv' and s.figures == root/'figures'
    assert s.cache == Path.home()/'c'


def test_another_programs_settings_are_passed_over(project):
    root = project('[paths]\nruns = a\n')
    (root/'nbs/settings.ini').write_text('[DEFAULT]\nlib_name = other\n')
    assert load_settings(root/'nbs').root == root


@pytest.mark.parametrize('text, record, fix', [
    ('[paths]\nrun = x\n', '[paths] run', 'runs'),
    ('[paths]\n[default]\n', '[default]', '[defaults]'),
    ('[paths]\nruns =\n', '[paths] runs', 'write one'),
    ('runs = x\n', 'line 1', '[paths]'),
    ('[paths]\nruns = a\nruns = b\n', 'line 3', '[paths]'),
    ('[paths]\nno equals sign here\n', 'line', 'key = value'),
])
def test_bad_settings_name_file_key_and_fix(project, text, record, fix):
    root = project(text)
    with pytest.raises(InputError) as error: load_settings(root)
    assert error.value.file == root/'settings.ini' and record in error.value.record and fix in error.value.fix


def test_find_dataset(project, monkeypatch):
    root = project('[datasets]\nmine = here.csv\ngone = gone.csv\n')
    (root/'here.csv').write_text('x')
    (root/'nbs/near.csv').write_text('x')
    monkeypatch.chdir(root/'nbs')
    assert find_dataset('mine') == find_dataset('here.csv') == root/'here.csv'
    assert find_dataset('near.csv') == root/'nbs/near.csv' and find_dataset(root/'nbs') == root/'nbs'
    with pytest.raises(InputError, match='BARCODEMAE_GONE'): find_dataset('gone')
    with pytest.raises(InputError, match='demo, mine, gone'): find_dataset('nothing.csv')


# errors

@given(*[st.one_of(st.none(), st.text(min_size=1))]*3)
def test_input_error_says_all_it_knows(file, record, fix):
    text = str(InputError('bad', file, record, fix))
    assert all(part in text for part in (file, record, fix, 'bad') if part)
    assert 'None' not in text or 'None' in f'{file}{record}{fix}'


def test_input_error_survives_pickling():
    import pickle
    error = InputError('bad', file='a.csv', record='line 3', fix='quote it')
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == 'a.csv: line 3: bad. Fix: quote it' and again.record == 'line 3'


# atomic writes

def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob('*') if p.is_file()}


def write_folder(path, text):
    path.mkdir()
    (path/'a').write_text(text)
    (path/'b').write_text(text)


@pytest.mark.parametrize('write', [lambda p, text: p.write_text(text), write_folder], ids=['file', 'folder'])
@pytest.mark.parametrize('fault', [RuntimeError('broke'), KeyboardInterrupt(),
    OSError(errno.ENOSPC, 'No space left on device')], ids=['error', 'interrupt', 'full disk'])
def test_failure_keeps_the_old(tmp_path, write, fault):
    path = tmp_path/'sub/thing'
    for text in ('old', 'new'):
        with atomic_path(path) as temp: write(temp, text)
    before = content(tmp_path)
    with pytest.raises(InputError if isinstance(fault, OSError) else type(fault)) as error:
        with atomic_path(path) as temp:
            assert temp.parent == path.parent and temp.suffix == path.suffix
            write(temp, 'newer')
            raise fault
    assert content(tmp_path) == before and set(before.values()) == {'new'}
    assert [p.name for p in path.parent.iterdir()] == ['thing']
    if isinstance(fault, OSError): assert error.value.file == path and 'settings.ini' in error.value.fix


def test_full_disk_seen_when_flushed(tmp_path, monkeypatch):
    write_json(tmp_path/'a.json', 1)
    def full(fd): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(InputError, match='no space left'): write_json(tmp_path/'a.json', 2)
    assert content(tmp_path) == {'a.json': '1\n'}


def test_full_disk_under_another_name(tmp_path, monkeypatch):
    "torch.save turns a full disk into a RuntimeError."
    monkeypatch.setattr(core.shutil, 'disk_usage', lambda p: type('usage', (), {'free': 0}))
    with pytest.raises(InputError, match='no space left'):
        with atomic_path(tmp_path/'w.pt'): raise RuntimeError('PytorchStreamWriter failed writing file')
    assert content(tmp_path) == {}


@pytest.mark.parametrize('tries', [1, 2])
def test_folder_move_that_fails_puts_the_old_back(tmp_path, monkeypatch, tries):
    "The first try meets the old folder, the second has moved it aside."
    path, real, seen = tmp_path/'store', os.replace, []
    with atomic_path(path) as temp: write_folder(temp, 'old')
    def broken(a, b):
        if Path(a).name.startswith('.tmp-'):
            seen.append(a)
            if len(seen) == tries: raise OSError(errno.EIO, 'Input/output error')
        return real(a, b)
    monkeypatch.setattr(os, 'replace', broken)
    with pytest.raises(OSError, match='Input/output'):
        with atomic_path(path) as temp: write_folder(temp, 'new')
    assert len(seen) == tries and content(tmp_path) == {'store/a': 'old', 'store/b': 'old'}


def test_file_does_not_replace_a_folder(tmp_path):
    write_folder(tmp_path/'store', 'old')
    with pytest.raises(OSError):
        with atomic_path(tmp_path/'store') as temp: temp.write_text('new')
    assert content(tmp_path) == {'store/a': 'old', 'store/b': 'old'}


@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_kill_while_writing_keeps_the_old(tmp_path, kind):
    path = tmp_path/'thing'
    with atomic_path(path) as temp: temp.write_text('old') if kind == 'file' else write_folder(temp, 'old')
    before = content(tmp_path)
    code = f"""
        import time
        from pathlib import Path
        from barcodemae.core import atomic_path
        with atomic_path(Path({str(path)!r})) as temp:
            if {kind == 'folder'}: temp.mkdir(); (temp/'a').write_text('half')
            else: temp.write_text('half')
            print('writing', flush=True)
            time.sleep(60)"""
    child = subprocess.Popen([sys.executable, '-c', textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == 'writing\n'
    child.send_signal(signal.SIGKILL)
    child.wait()
    left = [p for p in tmp_path.iterdir() if p.name.startswith('.tmp-')]
    assert len(left) == 1
    assert {k: v for k, v in content(tmp_path).items() if not k.startswith('.tmp-')} == before
    # the next writer clears it away, once it is old enough to be nobody's
    os.utime(left[0], (time.time() - 2*86400,)*2)
    with atomic_path(path) as temp: temp.write_text('new') if kind == 'file' else write_folder(temp, 'new')
    assert set(content(tmp_path).values()) == {'new'} and len(list(tmp_path.iterdir())) == 1


def test_writers_at_the_same_time(tmp_path):
    "Two processes put their folder onto one name again and again: it is whole at the end, with no debris."
    code = f"""
        import os
        from pathlib import Path
        from barcodemae.core import atomic_path
        for i in range(300):
            with atomic_path(Path({str(tmp_path/'store')!r})) as temp:
                temp.mkdir()
                for n in 'ab': (temp/n).write_text(f'{{os.getpid()}} {{i}}')"""
    children = [subprocess.Popen([sys.executable, '-c', textwrap.dedent(code)], stderr=subprocess.PIPE,
        text=True) for _ in range(2)]
    errors = [c.communicate()[1] for c in children]
    assert [c.returncode for c in children] == [0, 0], errors
    found = content(tmp_path)
    assert set(found) == {'store/a', 'store/b'} and len(set(found.values())) == 1


# JSON

def test_json_takes_numpy_torch_and_paths(tmp_path):
    write_json(tmp_path/'a.json', dict(a=np.float32(1.5), b=np.arange(3), c=torch.tensor([1., 2.]),
        d=Path('x/y'), e=torch.bfloat16, f='ä'))
    assert read_json(tmp_path/'a.json') == dict(a=1.5, b=[0, 1, 2], c=[1., 2.], d='x/y', e='torch.bfloat16',
        f='ä')


def test_json_refuses_what_it_does_not_know(tmp_path):
    write_json(tmp_path/'a.json', {'a': 1})
    with pytest.raises(TypeError, match='object'): write_json(tmp_path/'a.json', {'a': object()})
    assert json.loads((tmp_path/'a.json').read_text()) == {'a': 1}


@pytest.mark.parametrize('text', [None, '', '{"a": '])
def test_json_absent_or_broken(tmp_path, text):
    if text is not None: (tmp_path/'a.json').write_text(text)
    with pytest.raises(InputError) as error: read_json(tmp_path/'a.json')
    assert error.value.file == tmp_path/'a.json' and error.value.fix


# device, seeds, records

def test_probe_compute():
    cpu = probe_compute('cpu')
    assert cpu.device.type == 'cpu' and cpu.dtype in (torch.float32, torch.bfloat16)
    assert probe_compute('cpu') == cpu
    x = torch.ones(2, 2)
    with cpu.autocast(): assert (x @ x).dtype == cpu.dtype
    assert 'cpu' in cpu.name


@pytest.mark.parametrize('device', ['cuda:99', 'abacus'])
def test_probe_compute_without_such_a_device(device):
    with pytest.raises(InputError, match='BARCODEMAE_DEVICE'): probe_compute(device)


@pytest.mark.parametrize('gain, dtype', [(1.4, torch.float32), (1.6, torch.bfloat16)])
@pytest.mark.parametrize('other', [.1, 10.]) # what else runs slows one of the two in two of five turns
def test_precision_follows_the_measurement(monkeypatch, gain, dtype, other):
    measured = iter(range(1000))
    def speed(device, dtype, n, seconds):
        return (gain if dtype == torch.bfloat16 else 1.) * (other if next(measured) in (0, 4) else 1.)
    monkeypatch.setattr(compute, 'matmul_gflops', speed)
    assert compute._measured_dtype.__wrapped__(torch.device('cpu')) == dtype


def test_seeds():
    def draw(): return torch.rand(3).tolist(), np.random.rand(3).tolist()
    drawn = []
    for seed in (1, 2, 1):
        seed_everything(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[2] != drawn[1]


def test_machine_record(tmp_path):
    record = machine_record()
    write_json(tmp_path/'m.json', record)
    assert record['cores'] >= 1 and record['torch'] == torch.__version__ and record['time'].endswith('+00:00')
    assert record['commit'] is None or len(record['commit'].removesuffix('-dirty')) == 40


# metrics

def test_species_interval_of_singletons_is_the_plain_one():
    hits = np.random.default_rng(0).random(400) < .7
    none = species_interval(hits, np.array(['']*400))
    alone = species_interval(hits, np.arange(400).astype(str))
    half = 196 * np.sqrt(hits.mean() * (1 - hits.mean()) / 400)
    assert none[0] == alone[0] == round(100 * hits.mean(), 2)
    for mean, low, high in (none, alone): assert abs((high - low) / 2 - half) < 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 12),
    st.booleans())
def test_calibration_error_is_the_plain_loop(answers, bins, equal_counts):
    sure, right = map(np.array, zip(*answers))
    curve = reliability(sure, right, bins, equal_counts)
    assert curve[:, 2].sum() == len(sure) and len(curve) <= bins
    plain = sum(n * abs(c - r) for c, r, n in curve) / len(sure)
    assert abs(calibration_error(sure, right, bins, equal_counts) - plain) < 1e-9 and 0 <= plain <= 1
    if not equal_counts: # every answer is in the bin of its confidence
        for b in range(bins):
            inside = np.minimum((sure * bins).astype(int), bins - 1) == b
            if not inside.any(): continue
            expected = sure[inside].mean(), right[inside].mean(), inside.sum()
            assert any(np.allclose(row, expected) for row in curve)


def test_calibration_error_of_no_answers(): assert np.isnan(calibration_error([], []))


# the library alone

def test_core_and_settings_need_no_heavy_library():
    code = """
        import sys
        import barcodemae.core, barcodemae.settings
        heavy = {'torch', 'numpy', 'polars', 'pandas', 'sklearn', 'scipy', 'transformers'} & set(sys.modules)
        assert not heavy, heavy"""
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_library_imports_without_notebook_tools():
    "Every module of the package, in a process where the notebook tools cannot be imported."
    code = """
        import importlib, pkgutil, sys
        away = set('nbdev execnb matplotlib seaborn plotly jupyter jupyterlab notebook IPython ipykernel '
                   'papermill nbconvert nbformat nbclient tensorboard umap openTSNE pytest hypothesis '
                   'piqtree jupytext ipywidgets'.split())
        class Without: # a finder that does not see them, as where they are not installed
            def __init__(self, finder): self.finder = finder
            def __getattr__(self, name): return getattr(self.finder, name)
            def find_spec(self, name, *args):
                if name.split('.')[0] not in away: return self.finder.find_spec(name, *args)
        sys.meta_path[:] = map(Without, sys.meta_path)
        try: import pytest
        except ModuleNotFoundError: pass
        else: raise AssertionError('pytest was found')
        import barcodemae
        names = [m.name for m in pkgutil.walk_packages(barcodemae.__path__, 'barcodemae.')]
        assert {'barcodemae.core', 'barcodemae.data.read'} < set(names)
        for name in names:
            if not name.endswith('__main__'): importlib.import_module(name)
        print('imported', *names)"""
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nbdev_test_without_nbdev_says_what_to_install():
    code = "import sys; sys.modules['nbdev'] = None; from barcodemae._nbdev import nbdev_test; nbdev_test()"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'barcodemae[notebooks]'" in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('expression, passes', [('IN_TEST', True), ('not IN_TEST', False)])
def test_nbdev_test_runs_the_notebook_it_is_given(tmp_path, expression, passes):
    "The command runs the notebook that it is given and no other, tells it so, and fails when a cell fails."
    pytest.importorskip('nbdev')
    command = Path(sys.executable).parent/'nbdev_test'
    sources = ['from barcodemae.core import IN_TEST', f'assert {expression}',
        f"open({str(tmp_path/'ran')!r}, 'w')"]
    cells = [dict(cell_type='code', metadata={}, outputs=[], execution_count=None, id=str(i), source=source)
        for i, source in enumerate(sources)]
    metadata = dict(kernelspec=dict(name='python3', language='python', display_name='python3'))
    notebook = dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)
    (tmp_path/'one.ipynb').write_text(json.dumps(notebook))
    project = '[project]\nname = "x"\n[tool.nbdev]\nnbs_path = "."\nlib_path = "x"\n'
    (tmp_path/'pyproject.toml').write_text(project)
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    done = subprocess.run([command, tmp_path/'one.ipynb', '--do-print'], cwd=tmp_path, env=env,
        capture_output=True, text=True)
    assert (done.returncode == 0) == passes == (tmp_path/'ran').exists(), done.stdout + done.stderr
    assert 'one.ipynb' in done.stdout

"""Guards for workflows/ and `make wheel`: commands and options exist, versions agree, the wheel works."""
import importlib.util, re, shlex, subprocess, sys
from pathlib import Path

import pytest, yaml

import barcodemae
from barcodemae.cli import COMMANDS, parser

ROOT = Path(__file__).resolve().parent.parent
FLOWS = ROOT/'workflows'
FILES = sorted(p for p in FLOWS.rglob('*') if p.is_file() and p.suffix != '.md')
ids = lambda p: str(p.relative_to(FLOWS))

spec = importlib.util.spec_from_file_location('wheel_tool', ROOT/'tools/wheel.py')
wheel = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wheel)


def pyproject():
    "Its dependencies {name: versions}, and what the build requires."
    text = (ROOT/'pyproject.toml').read_text(encoding='utf-8')
    block = re.search(r'^dependencies = \[\n(.+?)^\]', text, flags=re.M | re.S)[1]
    found = re.findall(r'^\s*"([\w.-]+)(.*?)"', block, flags=re.M)
    return dict(found), wheel.required()


def commands(text):
    "Each call of barcodemae in a script, as a list of arguments; what the workflow program fills in is X."
    text = re.sub(r'^\s*(#|//).*$', '', text, flags=re.M)
    text = re.sub(r'"\n\s*"', '', text) # Snakemake: strings one after the other
    text = re.sub(r'\\\n', ' ', text)
    text = re.sub(r'\{[\w.]+\}', 'X', text.replace('${', '{')) # {input.query}, ${prefix}
    for call in re.findall(r'(?<![\w/$.-])barcodemae [a-z].*', text):
        call = re.split(r' 2>|["\']?$', call, maxsplit=1)[0].strip()
        yield [re.sub(r'\$args\b', '', a) for a in shlex.split(call) if a != '$args'][1:]


def numbers(arguments): # where a workflow fills in, a number suits --threads and --cutoff
    pairs = zip(['', *arguments], arguments)
    return ['1' if before in ('--threads', '--cutoff') else a for before, a in pairs]


SCRIPTS = [p for p in FILES if p.name != 'Dockerfile']
CALLS = [(p, call) for p in SCRIPTS for call in commands(p.read_text(encoding='utf-8'))]


def test_every_workflow_calls_the_command():
    assert {ids(p) for p, _ in CALLS} >= {'Snakefile', 'qiime2.sh', 'nextflow/modules/index/main.nf',
                                         'nextflow/modules/identify/main.nf'}
    call, = commands('shell:\n    "barcodemae index {input} -o {output}"\n    " --quiet 2> {log}"')
    assert call == ['index', 'X', '-o', 'X', '--quiet']


@pytest.mark.parametrize('path, call', CALLS, ids=lambda x: ids(x) if isinstance(x, Path) else ' '.join(x))
def test_commands_and_options_exist(path, call):
    if call[0] == '--version': return
    assert call[0] in COMMANDS
    parser().parse_args(numbers(call))


def test_a_command_that_does_not_exist_is_found():
    with pytest.raises(SystemExit): parser().parse_args(['identify', 'X', '--reference', 'X', '--nope'])


def test_nextflow_options_exist():
    text = (FLOWS/'nextflow/nextflow.config').read_text(encoding='utf-8')
    args, = re.findall(r"ext\.args = '(.+)'", text)
    parser().parse_args(['identify', 'X', '--reference', 'X', *shlex.split(args)])


@pytest.mark.parametrize('name', ['index', 'identify'])
def test_nextflow_modules_have_what_nf_core_asks_for(name):
    text = (FLOWS/f'nextflow/modules/{name}/main.nf').read_text(encoding='utf-8')
    assert text.startswith(f'process BARCODEMAE_{name.upper()} {{') and text.count('{') == text.count('}')
    parts = ('tag ', "label 'process_", 'conda "', 'container "', 'input:', 'output:', 'when:',
             'script:', 'stub:', 'versions.yml"', 'emit: versions', 'task.ext.args', '$task.cpus')
    assert not [part for part in parts if part not in text]
    conda = re.search(r'conda "\$\{moduleDir\}/(.+?)"', text)[1]
    assert (FLOWS/f'nextflow/modules/{name}'/conda).resolve() == FLOWS/'nextflow/environment.yml'
    included = (FLOWS/'nextflow/main.nf').read_text(encoding='utf-8')
    assert re.search(rf"BARCODEMAE_{name.upper()}\s*}} from './modules/{name}/main'", included)


@pytest.mark.parametrize('path', FILES, ids=ids)
def test_versions_are_those_of_the_library(path):
    text = path.read_text(encoding='utf-8')
    found = re.findall(r'barcodemae[:=]+(\d[\w.]*)|^  version: "(.+)"$', text, flags=re.M)
    assert {a or b for a, b in found} <= {barcodemae.__version__}
    if path.suffix in ('.yml', '.yaml') or path.name == 'Dockerfile': assert found


def test_the_image_takes_what_is_there_and_is_not_run_by_root():
    text = (FLOWS/'Dockerfile').read_text(encoding='utf-8')
    for line in re.findall(r'^COPY (.+)$', text, flags=re.M):
        assert not [name for name in line.split()[:-1] if not (ROOT/name).exists()]
    torch = re.search(r'torch==([\d.]+)', text)[1]
    assert f"TORCH = 'torch=={torch}'" in (ROOT/'tools/setup.py').read_text(encoding='utf-8')
    assert f'<={torch}' in pyproject()[0]['torch'] and 'download.pytorch.org/whl/cpu' in text
    lines = [line for line in text.splitlines() if line.startswith(('USER', 'ENTRYPOINT', 'FROM'))]
    assert lines == ['FROM python:3.12-slim', 'USER barcodemae', 'ENTRYPOINT ["barcodemae"]']


CONDA = dict(torch='pytorch', parasail='parasail-python') # what conda calls differently


def test_the_recipe_asks_for_what_pyproject_asks_for():
    recipe = yaml.safe_load((FLOWS/'conda/recipe.yaml').read_text(encoding='utf-8'))
    run = {name: versions for name, _, versions in (r.partition(' ') for r in recipe['requirements']['run'])}
    wanted, build = pyproject()
    python = re.search(r'requires-python = "(.+)"', (ROOT/'pyproject.toml').read_text(encoding='utf-8'))[1]
    assert run == {CONDA.get(name, name): versions for name, versions in wanted.items()} | {'python': python}
    assert {r.replace(' ', '') for r in recipe['requirements']['host']} >= set(build)
    assert (FLOWS/'conda'/recipe['source']['path']).resolve() == ROOT
    assert recipe['build']['python']['entry_points'] == ['barcodemae = barcodemae.cli:main']


def test_the_shell_script_is_one():
    done = subprocess.run(['bash', '-n', FLOWS/'qiime2.sh'], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_the_page_names_every_file():
    text = (FLOWS/'README.md').read_text(encoding='utf-8')
    linked = re.findall(r'\]\(([\w./]+)\)', text)
    assert not [name for name in linked if not (FLOWS/name).exists()]
    assert not [ids(p) for p in FILES if not any(ids(p).startswith(name) for name in linked)]


# --- make wheel

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    if not wheel.ready(): pytest.skip('no setuptools that is new enough')
    return wheel.build(tmp_path_factory.mktemp('dist'))


def test_wheel_and_sdist_hold_the_library_and_its_encoder(built):
    assert [p.suffix for p in built] == ['.whl', '.gz']
    assert all(barcodemae.__version__ in p.name for p in built)
    for path in built:
        held = wheel.contents(path)
        assert wheel.expected() <= held and not [n for n in held if 'nbs/' in n or '__pycache__' in n]
    encoder = {f'barcodemae/encoder/{p.name}' for p in (ROOT/'barcodemae/encoder').iterdir()}
    assert encoder <= wheel.expected() and 'barcodemae/encoder/model.safetensors' in encoder


def test_the_wheel_works_without_the_sources(built, tmp_path):
    import zipfile
    with zipfile.ZipFile(built[0]) as f: f.extractall(tmp_path)
    code = 'import barcodemae; print(barcodemae.__file__, barcodemae.load_model())'
    env = dict(PATH='/usr/bin:/bin', PYTHONPATH=str(tmp_path), HOME=str(tmp_path))
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert done.stdout.startswith(str(tmp_path/'barcodemae')) and 'Model encoder' in done.stdout


def test_make_wheel_is_told_of():
    text = (ROOT/'Makefile').read_text(encoding='utf-8')
    assert re.search(r'^wheel: setup\n\t@\$\(PY\) tools/wheel.py', text, flags=re.M)
    assert '# make wheel ' in text


def test_a_wheel_that_lacks_a_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(wheel, 'expected', lambda: {'barcodemae/a.py', 'barcodemae/encoder/b'})
    (tmp_path/'x.whl').write_bytes(b'PK\x05\x06' + bytes(18)) # an empty archive
    monkeypatch.setattr(wheel, 'build', lambda out: [tmp_path/'x.whl'])
    with pytest.raises(SystemExit, match='x.whl lacks barcodemae/a.py, barcodemae/encoder/b. Fix'):
        wheel.main(['x'])

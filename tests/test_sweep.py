"""Guards for barcodemae.training.grids and .sweep: grids, shared runs, killed sweeps, two at once, SLURM, the command."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

import nbformat, pytest
from filelock import FileLock

from barcodemae.core import InputError
from barcodemae.settings import load_settings
from barcodemae.training import sweep as module
from barcodemae.training.config import make_config
from barcodemae.training.grids import Job, find_grid, grid_jobs, job_state, merge_jobs, preset_for
from barcodemae.training.grids import found_rate, read_grid, with_needs
from barcodemae.training.sweep import make_plan, sweep, visible_gpus

ENGINE = pytest.mark.skipif(sys.version_info < (3, 11), reason='Snakemake needs Python 3.11')

GRID = '[every]\nseed = 0, 1\n[demo]\nvariant = mae, untrained\nshape = 1-2/1-2\nsteps = 3\n'


def test_the_grids_that_come_along():
    settings = load_settings(Path(__file__).parent)
    for grid in ('table1', 'table2', 'table3', 'figure3', 'depends', 'lengths', 'scratch'):
        for preset in ('demo', 'mini', 'bioscan5m'):
            jobs = grid_jobs(find_grid(grid, settings), preset, preset, settings.runs)
            assert len({j.folder for j in jobs}) == len(jobs) > 1
            assert all((settings.root/f'nbs/{j.notebook}.ipynb').exists() for j in jobs)
    assert len(grid_jobs(find_grid('table1', settings), 'bioscan5m', 'bioscan5m', settings.runs)) == 15
    presets = dict(demo='demo', coi_mini='mini', bioscan5m='bioscan5m', canada='bioscan5m')
    presets['my.csv'] = 'mini'
    assert {dataset: preset_for(dataset) for dataset in presets} == presets


def test_from_grid_to_parameters(tmp_path):
    (tmp_path/'g.ini').write_text(GRID)
    jobs = grid_jobs(tmp_path/'g.ini', 'demo', 'demo', tmp_path)
    assert [j.parameters['seed'] for j in jobs] == [0, 0, 1, 1] # whole tables of fewer seeds first
    assert jobs[0].name == 'mae_enc1-2_dec1-2_k6_steps3_seed0' and jobs[0].parameters['steps'] == 3
    assert jobs[1].parameters['steps'] == 0 and jobs[1].parameters['variant'] == 'encoder_only'
    assert jobs[0].parameters['overrides'] == dict(k=6, layers=1, heads=2, decoder_layers=1, decoder_heads=2)


def test_models_and_what_starts_from_them(tmp_path):
    grids = dict(a='[every]\nseed = 0, 1\nsteps = 5\n'
                   '[demo]\nmodel = mae 1-2/1-2, encoder_only 2-2, untrained 1-2\n',
                 b='[every]\nnotebook = training/finetune\nseed = 1\nsteps = 5\n'
                   '[demo]\nstart = mae 1-2/1-2, untrained 1-2\n',
                 c='[every]\nseed = 0\nsteps = 5\nanalyses = masking\n[demo]\nmodel = mae 1-2/1-2\n')
    for name, text in grids.items(): (tmp_path/f'{name}.ini').write_text(text)
    first, second, third = (grid_jobs(tmp_path/f'{g}.ini', 'demo', 'demo', tmp_path) for g in 'abc')
    assert [j.name for j in first[:3]] == [
        'mae_enc1-2_dec1-2_k6_steps5_seed0', 'encoder_only_enc2-2_k6_steps5_seed0',
        'untrained_enc1-2_k6_steps0_seed0']
    assert first[1].parameters['overrides'] == dict(k=6, layers=2, heads=2)
    assert first[1].parameters['variant'] == 'encoder_only'
    assert [[n.folder for n in j.needs] for j in second] == [[first[3].folder], [first[5].folder]]
    assert second[0].folder not in {j.folder for j in first}
    assert second[0].name == 'finetune_mae_enc1-2_dec1-2_k6_steps5_seed1'
    assert second[0].parameters['start'] == str(first[3].folder) and second[0].parameters['seed'] == 1
    merged = merge_jobs(first + third)
    assert len(merged) == 6 and merged[0].analyses == ('masking',) and merged[1].analyses == ()
    assert merged[0].parameters['analyses'] == ['masking']


FAULTS = [('[demo]\nseed = 0, -1\n', 'seed -1'), ('[demo]\nlearning_rate = NaN\n', 'learning_rate nan'),
          ('[demo]\nmodel = mae 0-2/1-2\n', 'layers 0'), ('[demo]\nbatch_size = many\n', "batch_size 'many'"),
          ('[every]\n', 'says nothing about the preset'), ('[demo]\nlayer = 3\n', 'no such setting'),
          ('[demo]\nshape = 6\n', 'no shape'), ('seed = 1\n', 'Fix'), (None, 'no such grid')]

@pytest.mark.parametrize('text, message', FAULTS)
def test_faults_of_a_grid(tmp_path, text, message):
    if text is not None: (tmp_path/'g.ini').write_text(text)
    with pytest.raises(InputError, match=message): grid_jobs(tmp_path/'g.ini', 'demo', 'demo', tmp_path)


TOY = """import json, os, time
from pathlib import Path
from filelock import FileLock
place = Path(run_dir)
(place/'pid').write_text(str(os.getpid()))
gpu, *threads = [os.environ.get(f'{n}') for n in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'NUMBA_NUM_THREADS')]
with open(place/'tries', 'a') as tries: tries.write(f'{gpu}\\n')
number = len((place/'tries').read_text().split())
with FileLock(place.parent/f"on{gpu or os.getpid()}", timeout=0):
    absent = [n for n in needs if not (place.parent/n/'results.json').exists()]
    if absent: raise LookupError(f'started before {absent}')
    if number == 1: time.sleep(sleep)
    if number <= fails: raise ValueError('as it was told')
    results = dict(knn=[], readings=[], clustering=[], threads=threads, learning_rate=learning_rate)
    (place/'results.json').write_text(json.dumps(results | dict(curve=[dict(val_loss=learning_rate)])))"""


def toy(folder, name, before=(), **parameters): # a run of the notebook above
    first = 'fails = sleep = learning_rate = 0; needs = []; run_dir = None'
    cells = [nbformat.v4.new_code_cell(first, metadata={'tags': ['parameters']}), nbformat.v4.new_code_cell(TOY)]
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder/'toy.ipynb')
    own = dict(parameters, run_dir=str(folder/name))
    return Job(name, folder/name, 'toy', own, ('clustering',), tuple(before))


def tries(job): return (job.folder/'tries').read_text().split() if (job.folder/'tries').exists() else []


@ENGINE
def test_done_broken_failed_elsewhere_and_their_order(tmp_path):
    names = dict(done='{"knn": [], "readings": [], "clustering": []}', broken='{"knn": [')
    jobs = {name: toy(tmp_path, name) for name in (*names, 'elsewhere')}
    for name, text in names.items():
        (tmp_path/name).mkdir()
        (tmp_path/name/'results.json').write_text(text)
    jobs['once'] = toy(tmp_path, 'once', fails=1)
    jobs['late'] = toy(tmp_path, 'late', [jobs['once']], needs=['once'])
    jobs['bad'] = toy(tmp_path, 'bad', fails=9)
    jobs['after bad'] = toy(tmp_path, 'after bad', [jobs['bad']])
    (tmp_path/'elsewhere').mkdir()
    said, order = [], [jobs.pop('late'), *jobs.values()]
    with FileLock(tmp_path/'elsewhere/sweep.lock'):
        found = sweep([*order[1:], order[0]], tmp_path, tmp_path/'sweep', workers=2, log=said.append)
    assert found == {'done before': ['done'], 'done': ['broken', 'once', 'late'], 'failed': ['bad'],
                     'begun': ['elsewhere'], 'missing': ['after bad']}
    assert {job.name: len(tries(job)) for job in order} == {
        'late': 1, 'done': 0, 'broken': 1, 'elsewhere': 0, 'once': 2, 'bad': 2, 'after bad': 0}
    told = '\n'.join(said)
    assert f"{tmp_path/'broken'}" in told and 'skipped' in told and '7 runs, 1 done before' in told
    assert 'once: failed, once more: ValueError: as it was told' in told and 'min left' in told
    assert 'bad: FAILED: ValueError: as it was told' in told
    assert str(tmp_path/'sweep/log.txt') in told # why two were not run
    assert json.loads((jobs['bad'].folder/'failed.json').read_text())['why'] == 'ValueError: as it was told'
    assert not (jobs['once'].folder/'failed.json').exists()
    assert json.loads((jobs['once'].folder/'results.json').read_text())['threads'] == ['1', '1'] # a core each


def test_results_without_an_analysis_are_not_done(tmp_path):
    job = toy(tmp_path, 'short')
    job.folder.mkdir()
    (job.folder/'results.json').write_text('{"knn": [], "readings": []}')
    assert job_state(job) == 'begun'


@ENGINE
def test_a_rate_is_found_though_one_of_its_search_fails_and_each_gpu_has_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'visible_gpus', lambda: ['3', 'GPU-7'])
    search = [toy(tmp_path, f's{i}', learning_rate=i, fails=9 * (i == 1), sleep=3) for i in (1, 2)]
    final = toy(tmp_path, 'final', search, learning_rate='searched', needs=['s2'])
    other = toy(tmp_path, 'other', learning_rate='searched') # whose search nobody made
    found = sweep([*search, final, other], tmp_path, tmp_path/'sweep', log=lambda line: None)
    assert found == {'done': ['s2', 'final'], 'failed': ['s1', 'other']}
    assert json.loads((tmp_path/'final/results.json').read_text())['learning_rate'] == 2
    assert {gpu for job in search for gpu in tries(job)} == {'3', 'GPU-7'} # one run each: see the lock in TOY
    assert 'no run of the search' in json.loads((tmp_path/'other/failed.json').read_text())['why']


def test_devices(tmp_path, monkeypatch):
    import torch
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert visible_gpus() == ['0', '1'] and make_plan([], tmp_path)['workers'] == 2
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,GPU-7')
    assert make_plan([], tmp_path, workers=3)['gpus'] == ['4', 'GPU-7'] == visible_gpus()
    plan = make_plan([], tmp_path, slurm=dict(cpus_per_task='4'))
    assert plan['gpus'] == [] and plan['threads'] == 4 # SLURM gives out what it has
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    assert visible_gpus() == [] and make_plan([], tmp_path, workers=7)['threads'] == 1


def in_background(folder, names, environment=None, **options): # a sweep in a process of its own
    program = (f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_sweep import *\n'
               f'place = Path({str(folder)!r})\n'
               f'jobs = [toy(place, name, **own) for name, own in {names!r}.items()]\n'
               f"sweep(jobs, place, place/f'sweep{{os.getpid()}}', **{options!r})")
    return subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, **(environment or {})})


def wait_for(what, seconds=90):
    for _ in range(seconds * 10):
        if what(): return
        time.sleep(.1)
    raise AssertionError('waited in vain')


def alive(pid): # a file with the number of a process
    try: return Path(f'/proc/{pid.read_text()}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError: return False


def number_of(pid): return pid.exists() and pid.read_text()


@ENGINE
def test_two_sweeps_at_once_do_no_run_twice(tmp_path):
    jobs = {f'a{i}': dict(sleep=3) for i in range(2)}
    both = [in_background(tmp_path, jobs, workers=2) for _ in range(2)]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert all(len(tries(toy(tmp_path, name))) == 1 for name in jobs), told
    assert {job_state(toy(tmp_path, name)) for name in jobs} == {'done'}, told


@ENGINE
def test_a_killed_sweep_takes_its_notebooks_along_and_the_next_goes_on(tmp_path):
    process, pid = in_background(tmp_path, dict(a0=dict(sleep=600)), workers=1), tmp_path/'a0/pid'
    wait_for(lambda: number_of(pid))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not alive(pid), 30) # else the notebook outlived the sweep
    job = toy(tmp_path, 'a0', sleep=600)
    assert job_state(job) == 'begun'
    assert sweep([job], tmp_path, tmp_path/'next', workers=1) == {'done': ['a0']} and len(tries(job)) == 2


# A queue that starts at once what it is given: enough to see what is handed over, what comes back, and that a
# sweep which is killed takes its jobs out of the queue.
SLURM = dict(
    sbatch="""a = sys.argv[1:]
number = 1
while True: # several are handed over at once
    try: file = open(place/f'{number}.call', 'x')
    except FileExistsError: number += 1
    else: break
with file: file.write(' '.join(a))
wrap = next(x for x in a if x.startswith('--wrap='))[len('--wrap='):]
script = f'echo $$ > {place}/{number}.pid; ( {wrap} ); echo $? > {place}/{number}.rc'
with open(a[a.index('--output') + 1].replace('%j', str(number)), 'w') as log:
    subprocess.Popen(['sh', '-c', script], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                     start_new_session=True)
print(number)""",
    srun="""a = sys.argv[1:]
while a[0].startswith('-'): a.pop(0)
os.execvp(a[0], a)""",
    sacct="""for call in place.glob('*.call'):
    code = place/f'{call.stem}.rc'
    state = dict([('', 'RUNNING'), ('0', 'COMPLETED')]).get(code.read_text().strip() if code.exists() else '')
    print(f"{call.stem}|{state or 'FAILED'}")""",
    scancel="""for number in sys.argv[1:]:
    os.killpg(int((place/f'{number}.pid').read_text()), signal.SIGKILL)
(place/'cancelled').write_text(' '.join(sys.argv[1:]))""",
    sacctmgr="print('lab')")


@ENGINE
def test_slurm_gets_the_runs_and_a_killed_sweep_takes_them_back(tmp_path):
    queue, profile = tmp_path/'queue', tmp_path/'profile'
    for folder in (queue, profile): folder.mkdir()
    for name, text in (SLURM | dict(squeue=SLURM['sacct'])).items():
        start = 'import os, signal, subprocess, sys\nfrom pathlib import Path\nplace = Path(__file__).parent\n'
        (queue/name).write_text(f'#!{sys.executable}\n{start}{text}\n')
        (queue/name).chmod(0o755)
    (profile/'config.yaml').write_text('slurm-init-seconds-before-status-checks: 1\n'
                                       'seconds-between-status-checks: 1\n')
    environment = dict(PATH=f"{queue}:{os.environ['PATH']}", SNAKEMAKE_PROFILE=str(profile))
    slurm = dict(slurm_partition='gpus', slurm_account='lab', runtime='8h', gpu='1')
    process = in_background(tmp_path, dict(quick=dict(fails=1), slow=dict(sleep=600)), environment, slurm=slurm)
    quick, pid = toy(tmp_path, 'quick'), tmp_path/'slow/pid'
    wait_for(lambda: job_state(quick) == 'done' and number_of(pid))
    calls = sorted(queue.glob('*.call'))
    assert len(calls) == 3 and len(tries(quick)) == 2 # two runs, one of them once more
    for wanted in ('-p gpus', '-A lab', '-t 480', '--gpus=1', '--cpus-per-task=1', '--mem 16000'):
        assert all(wanted in call.read_text() for call in calls), wanted
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_for(lambda: (queue/'cancelled').exists() and not alive(pid))
    assert job_state(toy(tmp_path, 'slow')) == 'begun'


def test_command(tmp_path, monkeypatch, capsys):
    (tmp_path/'g.ini').write_text(GRID)
    monkeypatch.setenv('BARCODEMAE_RUNS', str(tmp_path))
    monkeypatch.chdir(Path(__file__).parent)
    def command(*a): # what it says, and what it ends with
        try: status = module.main(a)
        except SystemExit as e: status = e.code
        return capsys.readouterr().out, status
    said, status = command(str(tmp_path/'g.ini'), '--dataset', 'demo', '--list')
    assert not status and said.count('missing') == 4
    for wrong in (['nothing'], [str(tmp_path/'g.ini'), '--preset', 'mini']):
        assert 'Fix' in command(*wrong)[1]
    for wrong in (['--workers', '0'], ['--slurm', 'gpu'], ['--slurm', 'runtime=']):
        assert 'Fix' in command(str(tmp_path/'g.ini'), '--dataset', 'demo', *wrong)[1]
    said, status = command(str(tmp_path/'g.ini'), '--dataset', 'nowhere.csv', '--preset', 'demo')
    assert not status and said.count('left out') == 4
    program = [sys.executable, '-m', 'barcodemae.training.sweep', 'nothing']
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1 and 'Fix' in done.stderr and 'Traceback' not in done.stderr


def test_each_model_gets_the_rate_that_its_search_finds(tmp_path):
    (tmp_path/'g.ini').write_text('[every]\nseed = 0, 1\nsteps = 8\nlearning_rate = searched\n'
                                  '[demo]\nmodel = mae 1-2/1-2, untrained 1-2\n')
    jobs = grid_jobs(tmp_path/'g.ini', 'demo', 'demo', tmp_path)
    first, untrained, second = jobs[:3]
    assert first.needs == second.needs and not untrained.needs # seeds share the search
    assert 'learning_rate' not in untrained.parameters
    usual = make_config('demo').learning_rate
    tried = [j.parameters['learning_rate'] for j in first.needs]
    assert tried == pytest.approx([usual / 2, usual, usual * 2])
    assert {j.parameters['steps'] for j in first.needs} == {2} and first.parameters['steps'] == 8
    assert [j.name for j in with_needs(jobs)][:4] == [j.name for j in (*first.needs, first)]
    with pytest.raises(InputError, match='search'): found_rate(first)
    for job, genus in zip(first.needs[1:], (50., 40.)): # the run at the lowest rate failed
        curve = [dict(genus_1nn=99., genus_1nn_whitened=99.), dict(genus_1nn=genus, genus_1nn_whitened=60.)]
        job.folder.mkdir(parents=True)
        found = dict(learning_rate=job.parameters['learning_rate'], curve=curve, knn=[], readings=[])
        (job.folder/'results.json').write_text(json.dumps(found))
    assert found_rate(second) == usual

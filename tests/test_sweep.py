"""Guards for barcodemae.training.sweep: grids, shared runs, killed sweeps, two at once, the command."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

import nbformat, pytest
from filelock import FileLock

from barcodemae.core import InputError
from barcodemae.settings import load_settings
from barcodemae.training.config import make_config
from barcodemae.training.sweep import Job, Sweep, find_grid, grid_jobs, job_state, merge_jobs, preset_for
from barcodemae.training.sweep import found_rate, read_grid, with_needs

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


def notebook(folder, code):
    parameters = nbformat.v4.new_code_cell('a, run_dir = 1, None', metadata={'tags': ['parameters']})
    cells = [parameters, nbformat.v4.new_code_cell(code)]
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder/'toy.ipynb')


def job_in(folder, a):
    parameters = dict(a=a, run_dir=str(folder/f'a{a}'))
    return Job(f'a{a}', folder/f'a{a}', 'toy', parameters, ('clustering',))


def jobs_in(folder, n): return [job_in(folder, a) for a in range(n)]


WRITE = """import json, time; from pathlib import Path
Path(run_dir, "results.json").write_text(json.dumps(dict(knn=[], readings=[], clustering=[a])))"""
SLEEP = WRITE + """
if not Path(run_dir, "pid").exists():
    import os
    Path(run_dir, "pid").write_text(str(os.getpid()))
    Path(run_dir, "results.json").unlink()
    time.sleep(600)"""


def test_done_broken_and_elsewhere(tmp_path):
    notebook(tmp_path, WRITE)
    jobs, said = jobs_in(tmp_path, 4), []
    results = dict(a0='{"knn": [], "readings": [], "clustering": []}', a1='{"knn": [',
                   a2='{"knn": [], "readings": []}')
    for name, text in results.items():
        (tmp_path/name).mkdir()
        (tmp_path/name/'results.json').write_text(text)
    (tmp_path/'a3').mkdir()
    with FileLock(tmp_path/'a3/sweep.lock'):
        found = Sweep(jobs, tmp_path, [{}, {}], log=said.append).run()
    found = {state: sorted(names) for state, names in found.items()}
    assert found == {'done before': ['a0'], 'done': ['a1', 'a2'], 'elsewhere': ['a3']}
    assert any(str(tmp_path/'a1') in line and 'skipped' in line for line in said)


def test_a_job_waits_for_what_it_needs(tmp_path):
    notebook(tmp_path, WRITE)
    late, early = jobs_in(tmp_path, 2)
    late.needs, said = (early,), []
    assert Sweep([late, early], tmp_path, [{}, {}], log=said.append).run() == {'done': ['a1', 'a0']}
    parameters = dict(a=3, run_dir=str(tmp_path/'b')) # what it needs was made before, or by nobody
    absent = Job('b', tmp_path/'b', 'toy', parameters, ('clustering',), needs=(early,))
    assert Sweep([absent], tmp_path, [{}], log=said.append).run() == {'done': ['b']}


def test_a_killed_sweep_takes_its_notebooks_along_and_the_next_goes_on(tmp_path):
    notebook(tmp_path, SLEEP)
    program = (f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_sweep import *\n'
               f'place = Path({str(tmp_path)!r})\nSweep(jobs_in(place, 1), place, [{{}}]).run()')
    sweep = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.DEVNULL)
    pid = tmp_path/'a0/pid'
    for _ in range(600):
        if pid.exists() and pid.read_text(): break
        time.sleep(.1)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    def alive():
        try: return Path(f'/proc/{pid.read_text()}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
        except FileNotFoundError: return False
    for _ in range(300):
        if not alive(): break
        time.sleep(.1)
    assert not alive(), 'the notebook outlived the sweep'
    assert job_state(jobs_in(tmp_path, 1)[0]) == 'begun'
    assert Sweep(jobs_in(tmp_path, 1), tmp_path, [{}]).run() == {'done': ['a0']}


def test_command(tmp_path):
    (tmp_path/'g.ini').write_text(GRID)
    def command(*a):
        environment = {**os.environ, 'BARCODEMAE_RUNS': str(tmp_path)}
        return subprocess.run([sys.executable, '-m', 'barcodemae.training.sweep', *a], capture_output=True,
                              text=True, cwd=Path(__file__).parent, env=environment)
    done = command(str(tmp_path/'g.ini'), '--dataset', 'demo', '--list')
    assert done.returncode == 0 and done.stdout.count('missing') == 4
    for wrong in (['nothing'], [str(tmp_path/'g.ini'), '--preset', 'mini']):
        done = command(*wrong)
        assert done.returncode and 'Fix' in done.stderr and 'Traceback' not in done.stderr
    done = command(str(tmp_path/'g.ini'), '--dataset', 'nowhere.csv', '--preset', 'demo')
    assert done.returncode == 0 and done.stdout.count('left out') == 4


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


def test_a_job_without_a_rate_fails_and_the_others_go_on(tmp_path):
    notebook(tmp_path, WRITE)
    one, other = jobs_in(tmp_path, 2)
    one.parameters['learning_rate'], said = 'searched', []
    found = Sweep([one, other], tmp_path, [{}], log=said.append).run()
    assert found == {'done': [other.name], 'failed': [one.name]} and any('search' in line for line in said)

"""The part `order` of gpu_kit.py: is it mae > mae_with_mask > encoder_only, and after how many passes?

A small model leaves most of a GPU idle, so several processes share it; each trains and judges one run after
another. Runs come in groups, one run of each variant and equally long, in the order of their importance; a
group is begun where it fits into the time that is left at the pace measured so far. A file order.json beside
this one is continued."""
import gc, json, os, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import numpy as np, torch
from gpu_kit import save_shards
from gpu_checks import Part, metrics
from gpu_training import QUERIES, judge
from barcodemae.compute import Compute
from barcodemae.core import read_json, write_json
from barcodemae.evaluation.knn import GenusMonitor, untrained_encoder
from barcodemae.model.mae import VARIANTS
from barcodemae.model.sequence import load_encoder
from barcodemae.training.config import step_gflop
from barcodemae.training.pretrain import train

HERE = Path(__file__).resolve().parent
RATES = (1.5e-3, 3e-3, 6e-3) # learning rates, tried for each variant
CHOICE = ('val_unseen', 'key_unseen') # partitions that choose among them
LONGEST, SHORTEST = 5 * 10**6, 2 * 10**6 # passes of the long runs
SHARE, WINDOW, FULL = .8, 15, 35 # of the pace to count on; seconds to measure it over, and until it is full
KEPT = ('steps', 'best', 'seconds_training', 'barcodes_seen', 'barcodes_per_second', 'parameters',
        'encoder_parameters', 'compute', 'machine') # of the record of a run


# -- the runs ---------------------------------------------------------------------------------------------

def groups_of(part):
    "Groups of runs, the most important first. `passes` of the long ones is decided later."
    one, trial, short = part.size((10**6, 250_000, 100_000), (192, 64, 32))
    def triple(group, seed, passes, **changes):
        return [dict(name=f'{group}-{v}-{seed}', group=group, variant=v, seed=seed, passes=passes,
                     changes=changes) for v in VARIANTS]
    search = [dict(name=f'search-{v}-{rate}', group='search', variant=v, seed=0, passes=trial, changes={},
                   rate=rate) for v in VARIANTS for rate in RATES]
    paper = dict(aligned=False, random_offset=True) # how the paper cuts barcodes into k-mers
    found = [search, *(triple('1M', seed, one) for seed in range(3)), triple('long', 0, None)]
    found += [triple('4-mers', 0, one, k=4), triple('unaligned', 0, one, **paper)]
    found += [triple('0.1M', seed, short) for seed in range(3)]
    for seed in (1, 2):
        found += [triple('unaligned', seed, one, **paper), triple('4-mers', seed, one, k=4)]
    return found


def job_config(part, job):
    "Symmetric encoder and decoder, everything equal but the variant and its learning rate."
    full = dict(hidden_size=256, layers=3, heads=4, decoder_hidden_size=256, decoder_layers=3,
                decoder_heads=4, batch_size=512, log_steps=25)
    small = dict(hidden_size=32, layers=2, heads=2, decoder_hidden_size=32, decoder_layers=2, decoder_heads=2,
                 batch_size=32, log_steps=2)
    batch = part.size(full, small)['batch_size']
    looks = 2 if job['group'] == 'search' else 10
    rest = dict(steps=-(-(job['passes'] or batch) // batch), validations=looks)
    rest |= dict(variant=job['variant'], seed=job['seed'], checkpoint_minutes=60,
                 learning_rate=job.get('rate'))
    return part.config('gpu', full | rest | job['changes'], small | rest | job['changes'])


def run_job(part, job):
    "Train and judge: the last encoder, and beside it the one of lowest held-out loss, last layer."
    config, folder, few = job_config(part, job), part.work/'order'/job['name'], part.size((), (300, 100))
    sizes = dict(references=part.size(4000, 300), whiten=part.size(2000, 100))
    record = train(config, part.store, folder, part.compute, GenusMonitor(part.store, part.compute, **sizes))
    def judged(encoder):
        queries = CHOICE if job['group'] == 'search' else QUERIES
        return judge(encoder, part.store, part.compute, *few, queries=queries)
    def last_layer(rows): return [r for r in rows if r['layer'] == config.layers]
    last = load_encoder(folder/'last')
    found = dict(job, rate=config.learning_rate, config=asdict(config), record={k: record[k] for k in KEPT},
                 curve=[line for line in metrics(folder) if 'val_loss' in line], last=judged(last))
    if job['group'] == 'search': return found
    if record['best']['step'] == record['steps']: found['lowest_loss'] = last_layer(found['last'])
    else: found['lowest_loss'] = last_layer(judged(load_encoder(folder/'best')))
    if job['variant'] == VARIANTS[0]: found['untrained'] = judged(untrained_encoder(last.config, job['seed']))
    if job['group'] == 'long': save_shards(last, part.out, job['name'])
    return found


def work(part):
    "One process: jobs come in as lines, results go to files; it ends with the first failure."
    for line in sys.stdin:
        job, start = json.loads(line), time.time()
        torch._dynamo.reset() # every run compiles for itself, from the cache
        try: found = run_job(part, job)
        except Exception as e: found = dict(job, error=f'{type(e).__name__}: {e}'[:500])
        write_json(part.work/'order'/f"{job['name']}.json", found | dict(seconds=time.time() - start))
        if 'error' in found: raise SystemExit(f"{job['name']}: {found['error']}")
        gc.collect()
        if part.compute.device.type == 'cuda': torch.cuda.empty_cache()


# -- the schedule -----------------------------------------------------------------------------------------

class Worker:
    "A process of `work` and what it does now."
    def __init__(self, part):
        command = [sys.executable, __file__, part.work, part.out, part.left, part.compute.dtype]
        few = dict(OMP_NUM_THREADS='1', TORCHINDUCTOR_COMPILE_THREADS='3') # cores are shared by all
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, text=True,
                                        env=os.environ | few)
        self.job = None

    def give(self, job):
        self.job = job
        print(json.dumps(job), file=self.process.stdin, flush=True)


class Schedule:
    "Which runs are done, under way, waiting and still to be thought about."
    def __init__(self, part, before): # what an earlier call found
        self.part, self.place, self.queue = part, part.work/'order', []
        self.end, self.judging = part.end - part.size(8, 4), part.size(10, 6)
        self.runs, self.rates = dict(before.get('runs', {})), dict(before.get('rates', {}))
        self.pace, self.done, self.seen = before.get('pace'), 0., [] # GFLOP/s; GFLOP; (time, GFLOP)
        self.passes = next((r['passes'] for r in self.runs.values() if r['group'] == 'long'), None)
        left = ([j for j in group if j['name'] not in self.runs] for group in groups_of(part))
        self.groups = [group for group in left if group]
        self.skipped, self.workers, self.tries = [], [Worker(part) for _ in range(part.size(6, 2))], {}
        self.since = None # when the first run of a million passes was begun
        self.place.mkdir(exist_ok=True)

    def gflop(self, job, passes=None):
        return step_gflop(job_config(self.part, job)) * (passes or job['passes'] or 1)

    def progress(self, job): # GFLOP
        path = self.place/job['name']/'metrics.jsonl'
        lines = path.read_text().splitlines() if path.exists() else []
        try: return self.gflop(job, json.loads(lines[-1])['barcodes'] or 1)
        except (IndexError, ValueError): return 0. # nothing yet, or a line that is being written

    def running(self): return [w.job for w in self.workers if w.job]

    def measure(self):
        "The best pace of all processes together over `WINDOW` seconds."
        now = time.time(), self.done + sum(map(self.progress, self.running()))
        self.seen.append(now)
        before = [s for s in self.seen if s[0] <= now[0] - WINDOW]
        if before and (gain := now[1] - before[-1][1]) > 0:
            self.pace = max(self.pace or 0, gain / (now[0] - before[-1][0]))

    def room(self): # GFLOP that can still be begun
        if not self.pace: return float('inf')
        under_way = sum(self.gflop(j) - self.progress(j) for j in self.running())
        waiting = sum(map(self.gflop, self.queue))
        return SHARE * self.pace * (self.end - time.time() - self.judging) - under_way - waiting

    def ready(self): # waiting jobs whose learning rate is known
        return [j for j in self.queue if 'rate' in j or j['variant'] in self.rates]

    def choose(self):
        "The learning rate of a variant: highest mean over partitions, plain and whitened, of the last layer."
        for variant in set(VARIANTS) - set(self.rates):
            def searches(runs): return [r for r in runs if (r['group'], r['variant']) == ('search', variant)]
            tried, waiting = searches(self.runs.values()), [j for group in self.groups for j in group]
            if searches((*self.queue, *self.running(), *waiting)): continue
            best = max(tried, key=lambda r: np.mean(search_scores(r)), default=dict(rate=RATES[1]))
            self.rates[variant] = best['rate']
            print('rate of', variant, self.rates[variant], flush=True)

    def plan(self):
        "Groups join the queue when nothing is ready; the long ones come first once the pace is known."
        while self.groups:
            known, group = len(self.rates) == len(VARIANTS), self.groups[0]
            if self.ready() and not (known and self.long_due()): return
            if group[0]['group'] != 'search' and not self.rates: return
            if group[0]['group'] == 'long' and not known: return
            self.begin(self.groups.pop(0))

    def long_due(self): # is the pace known by now?
        names = {g[0]['group'] for g in self.groups}
        waited = time.time() - self.since > FULL if self.since else '1M' not in names
        return 'long' in names and waited

    def begin(self, group):
        each, room = sum(self.gflop(j, 1) for j in group), self.room()
        if group[0]['group'] == 'long':
            longest, shortest, step = self.part.size((LONGEST, SHORTEST, 10**5), (320, 64, 32))
            passes = self.passes or int(min(longest, room / each) // step * step)
            if passes < shortest: return self.skipped.append('long')
            for j in group: j['passes'] = passes
            self.passes = passes
            self.workers += [Worker(self.part) for _ in group]
        if group[0]['group'] == '1M': self.since = self.since or time.time()
        if group[0]['group'] in ('search', '1M') or sum(map(self.gflop, group)) <= room:
            self.queue = group + self.queue if group[0]['group'] == 'long' else self.queue + group
            print(f"{self.end - time.time():.0f} s left, {self.pace or 0:.0f} GFLOP/s: begins "
                  f"{group[0]['group']}, {group[0]['passes']} passes", flush=True)
        else: self.skipped += [j['name'] for j in group]

    def collect(self, worker):
        "Take the result of a process, or what is left of one that died."
        path, job = self.place/f"{worker.job['name']}.json", worker.job
        gone = worker.process.poll() is not None
        if not path.exists() and not gone: return
        found = read_json(path) if path.exists() else dict(job, error='the process died')
        path.unlink(missing_ok=True)
        worker.job = None
        if 'error' not in found:
            self.runs[job['name']], self.done = found, self.done + self.gflop(job)
            told = found['last'] if job['group'] == 'search' else found['lowest_loss']
            print(f"{job['name']}: {found['seconds']:.0f} s, {self.end - time.time():.0f} s left,",
                  [round(r['accuracy'], 1) for r in told[-4:]], flush=True)
        else:
            self.tries[job['name']] = self.tries.get(job['name'], 0) + 1
            self.part.found['errors'][job['name']] = found['error']
            if self.tries[job['name']] < 2: self.queue.insert(0, job)
        self.write()

    def write(self):
        self.part.put(runs=self.runs, rates=self.rates, pace=self.pace, skipped=self.skipped)

    def tend(self):
        "One look at everything."
        for worker in self.workers:
            if worker.job: self.collect(worker)
        for i, worker in enumerate(self.workers): # one that failed is replaced
            if not worker.job and worker.process.poll() is not None and len(self.part.found['errors']) < 12:
                self.workers[i] = Worker(self.part)
        self.measure()
        self.choose()
        self.plan()
        for worker in self.workers:
            if worker.job or worker.process.poll() is not None or not (ready := self.ready()): continue
            self.queue.remove(job := ready[0])
            worker.give(dict(job, rate=job.get('rate') or self.rates[job['variant']]))

    def open(self):
        alive = any(w.process.poll() is None for w in self.workers)
        return time.time() < self.end and alive and bool(self.running() or self.ready() or self.groups)


def search_scores(run): # of the last layer, percent
    last = max(r['layer'] for r in run['last'])
    return [r['accuracy'] for r in run['last'] if r['layer'] == last]


def order(part):
    path = HERE/'order.json'
    schedule = Schedule(part, read_json(path) if path.exists() else {})
    part.put(store=repr(part.store), choice=CHOICE, tried=RATES)
    try:
        while schedule.open():
            schedule.tend()
            time.sleep(.5)
    finally:
        for worker in schedule.workers: worker.process.kill()
        part.found['unfinished'] = [j['name'] for j in (*schedule.running(), *schedule.queue)]
        schedule.write()


if __name__ == '__main__':
    *known, dtype = sys.argv[1:]
    part = Part('worker', *known)
    part.compute = Compute(part.compute.device, getattr(torch, dtype.removeprefix('torch.')))
    work(part)

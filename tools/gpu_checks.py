"""The parts of gpu_kit.py that check and time: are the answers right, and how much of the GPU is used?"""
import json, time, traceback, warnings
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch
from sklearn.preprocessing import normalize as unit
from transformers import AutoModelForPreTraining
from gpu_kit import STORE
from barcodemae.compute import Compute, machine_record, matmul_gflops, probe_compute, wait_for
from barcodemae.settings import load_settings
from barcodemae.core import write_json
from barcodemae.embedding.embed import embed
from barcodemae.embedding.neighbours import nearest
from barcodemae.evaluation.knn import untrained_encoder
from barcodemae.model.cpu_layers import compile_training
from barcodemae.model.mae import VARIANTS, random_masking
from barcodemae.model.sequence import ARCHITECTURES
from barcodemae.training.config import embedding_gflop, make_config, model_config, step_gflop
from barcodemae.data.store import WIDTH, BarcodeStore
from barcodemae.model.tokenizer import kmer_ids
from barcodemae.training.pretrain import Pretraining, pretraining_rows, train
from barcodemae.training.trainer import Trainer

PASSES = 35 * (2_284_232 + 41_250) # of the paper's pretraining on BIOSCAN-5M


class Part:
    "What a part has found, on disk as soon as it is known, and the time that is left."
    def __init__(self, name, work, out, seconds):
        self.work, self.out, self.end = Path(work), Path(out), time.time() + float(seconds)
        self.path, self.store = self.out/f'{name}.json', BarcodeStore(self.work/STORE)
        self.compute = probe_compute(load_settings().device)
        self.small = self.compute.device.type == 'cpu' # sizes for trying everything out
        kit = Path(__file__).parent/'commit.txt' # there in a packed folder
        commit = kit.read_text().strip() if kit.exists() else machine_record()['commit']
        self.found = dict(machine=machine_record(), commit=commit, compute=self.compute.name)
        self.found['dataset'] = self.store.name
        self.found |= dict(small=self.small, errors={}, whole=False)

    @property
    def left(self): return self.end - time.time()
    def size(self, full, small): return small if self.small else full
    def config(self, preset, full=None, small=None, **both):
        return make_config(preset, dataset=self.store.name, **both, **self.size(full or {}, small or {}))

    def put(self, **values):
        self.found |= values
        write_json(self.path, self.found)

    @contextmanager
    def finding(self, name):
        "A failure is written down and the part continues."
        try: yield
        except Exception as e:
            self.put(errors=self.found['errors'] | {name: f'{type(e).__name__}: {e}'[:500]})
            traceback.print_exc()


def must_compile(): # else it would be timed, and called compiled
    warnings.filterwarnings('error', '.* runs without being compiled')


def seconds_of(work, n, device):
    "Mean seconds of `work(i)` over n calls in a row."
    wait_for(device)
    start = time.perf_counter()
    for i in range(n): work(i)
    wait_for(device)
    return (time.perf_counter() - start) / n


def metrics(folder): # lines of a run
    return [json.loads(line) for line in (folder/'metrics.jsonl').read_text().splitlines()]


# -- smoke: are the answers right? ----------------------------------------------------------------------

def gradients(net, bases, device, dtype=torch.float32):
    "Loss and gradients of one batch whose masked k-mers were drawn on the CPU."
    ids, mask = kmer_ids(torch.from_numpy(bases), net.config.k)
    noise = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0))
    m = random_masking(ids, mask, .5, noise)
    m = type(m)(*(t.to(device) for t in vars(m).values()))
    net.to(device).train().zero_grad()
    with Compute(device, dtype).autocast():
        loss = net(ids.to(device), mask.to(device), m, with_logits=False).loss
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None])


def apart(a, b): # of two results of `gradients`: the larger relative difference
    return max(abs(a[0] - b[0]) / abs(b[0]), ((a[1] - b[1]).norm() / b[1].norm()).item())


def last_loss(part, name, compute, stopped=False, dropout=.1, compiled=None):
    "Training loss at the end of a run of 20 steps; of one that is stopped after its checkpoint, and resumed."
    torch._dynamo.reset() # shapes of other runs count too
    config = part.config('demo', aligned=True, steps=20, log_steps=5, checkpoint_steps=10, validations=1,
                         dropout=dropout, compiled=compiled, random_offset=True)
    def stop(history):
        if history()[-1]['step'] >= 15: raise KeyboardInterrupt
    try: train(config, part.store, part.work/name, compute, watch=stop if stopped else None)
    except KeyboardInterrupt: train(config, part.store, part.work/name, compute)
    return [line['loss'] for line in metrics(part.work/name) if 'loss' in line][-1]


def dropped_out(part, compute, seeds):
    "The loss of one batch under each of these seeds, after some steps: dropout is all that they decide."
    config = part.config('demo', steps=9, dropout=.1)
    trainer = Trainer(Pretraining(config, part.store), compute, 9)
    for i in range(3): trainer.step(i)
    batch = trainer.objective.batch(trainer.batches(3), slice(None), trainer.accelerator.device)
    losses = []
    for seed in seeds:
        torch.manual_seed(seed)
        out = trainer.objective.loss(trainer, batch)
        trainer.accelerator.backward(out.loss)
        trainer.model.zero_grad()
        losses.append(out.loss.item())
    return losses


def smoke(part):
    must_compile()
    checks, device, cpu = [], part.compute.device, torch.device('cpu')
    def check(name, value, limit):
        print(f'{part.left:6.1f} s left  {name}: {value:.2g}', flush=True)
        checks.append(dict(name=name, value=float(value), limit=limit, ok=bool(value <= limit)))
        part.put(checks=checks)
    bases = np.array(part.store.bases[pretraining_rows(part.store)[:16]])
    exact, low = Compute(device, torch.float32), Compute(device, torch.bfloat16)

    for variant in part.size((*VARIANTS, *ARCHITECTURES), VARIANTS):
        with part.finding(variant):
            config = make_config('demo', variant=variant, hidden_size=64, layers=2, decoder_layers=2, k=4)
            torch.manual_seed(0)
            net = AutoModelForPreTraining.from_config(model_config(config))
            here = gradients(net, bases, cpu)
            there = gradients(net, bases, device)
            check(f'{variant}: loss and gradients as on the CPU', apart(there, here), 1e-3)
            if variant not in VARIANTS: continue
            half = gradients(net, bases, device, torch.bfloat16)
            check(f'{variant}: in bf16', abs(half[0] - here[0]), .05)
            if part.small: continue
            fast = gradients(compile_training(net), bases, device)
            check(f'{variant}: compiled', apart(fast, here), 1e-3)

    with part.finding('embedding'):
        encoder = untrained_encoder(model_config(make_config('demo', hidden_size=64, layers=2)))
        places = (exact, low, Compute(cpu, torch.float32))
        same, half, here = (unit(embed(encoder, bases, 6, compute=c, desc=None)) for c in places)
        def off(x): return 1 - (x * here).sum(1).min()
        check('embedding as on the CPU: 1 - cosine', off(same), 1e-5)
        check('embedding in bf16: 1 - cosine', off(half), 1e-3)
        x = np.random.default_rng(0).standard_normal((3000, 64), np.float32)
        there, here = (nearest(x[:500], x[500:], 5, device=d)[0] for d in (device, cpu))
        check('neighbours that differ from the CPU, share', (there != here).mean(), .001)

    with part.finding('resumed'):
        losses = [last_loss(part, name, exact, name == 'stopped') for name in ('stopped', 'whole')]
        check('a resumed run: difference of the loss', abs(losses[0] - losses[1]), 2e-3)

    with part.finding('compiled'): # on a GPU by CUDA graphs: recorded in the second step, replayed after it
        for compute, limit in ((exact, 2e-3), (low, 2e-2)):
            name = str(compute.dtype).removeprefix('torch.')
            def run(compiled):
                return last_loss(part, f'{name}-{compiled}', compute, dropout=0., compiled=compiled)
            apart_by = abs(run(False) - run(None))
            check(f'compiled for 20 steps, {name}: difference of the loss', apart_by, limit)
        skipped = torch._dynamo.utils.counters['inductor']['cudagraph_skips']
        check('layers that were compiled without graphs', 0 if part.small else skipped, 0)
        first, again, other = dropped_out(part, exact, (1, 1, 2))
        check('dropout of the same seed: difference of the loss', abs(first - again), 1e-6)
        check('dropout of another seed: is it the same?', first == other, 0)


# -- speed: how much of the machine is used? ------------------------------------------------------------

SHAPES = dict(paper='bioscan5m', gpu='gpu') # name -> preset


def step_row(part, name, batch, compiled, top):
    "Time some steps: the row for the table, and the trainer."
    device, gpu = part.compute.device, part.compute.device.type == 'cuda'
    config = part.config(SHAPES[name], small=dict(layers=1, decoder_layers=1), steps=100, batch_size=batch,
                         compiled=compiled)
    if gpu: torch.cuda.reset_peak_memory_stats()
    torch._dynamo.reset() # shapes of other rows count too
    start = time.perf_counter()
    trainer = Trainer(Pretraining(config, part.store), part.compute, 100)
    for i in range(part.size(3, 1)): trainer.step(i)
    wait_for(device)
    ready = time.perf_counter() - start
    pace = trainer.batches.size / seconds_of(lambda i: trainer.step(3 + i), part.size(8, 1), device)
    row = dict(shape=name, batch=trainer.batches.size, compiled=compiled, barcodes_per_second=pace,
               gflop=step_gflop(config), share_of_peak=pace * step_gflop(config) / top, start_seconds=ready,
               commit=part.found['commit'])
    row['gpu_memory_gb'] = torch.cuda.max_memory_allocated() / 1e9 if gpu else None
    part.put(steps=part.found['steps'] + [row])
    print(row, flush=True)
    return row, trainer


def compiled_step(part, name, batch, top):
    "The step as training runs it: its speed, the share of cutting barcodes into k-mers, its longest kernels."
    device = part.compute.device
    row, trainer = step_row(part, name, batch, not part.small, top)
    batch = row['batch'] # a small data set has no more
    if name == 'paper': part.put(paper_hours=PASSES / row['barcodes_per_second'] / 3600)
    some = torch.as_tensor(np.array(part.store.bases[:batch])).to(device)
    offset = some[:, 0].long() * 0 if trainer.config.random_offset else None
    def tokens(i): trainer.objective.kmer_ids(some, trainer.config.k, offset)
    tokens(0)
    share = seconds_of(tokens, 20, device) * row['barcodes_per_second'] / batch
    part.put(**{f'{name}_tokenization_share': share})
    part.put(**{f'{name}_profile': profile(trainer, device, batch / row['barcodes_per_second'])})


def profile(trainer, device, seconds, steps=3): # seconds of a step when nobody watches
    "The ten kernels that take longest in a step: name, ms, share, calls; and the share of time without any."
    from torch.profiler import ProfilerActivity, profile as record
    gpu = device.type == 'cuda'
    with record(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        seconds_of(lambda i: trainer.step(50 + i), steps, device)
    def spent(e): return (e.self_device_time_total if gpu else e.self_cpu_time_total) / 1e3
    events = sorted(found.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, events))
    kernels = [dict(kernel=e.key[:90], ms=spent(e) / steps, share=spent(e) / total, calls=e.count / steps)
               for e in events[:10]]
    return dict(kernels=kernels, ms=total / steps, idle_share=max(0., 1 - total / steps / 1e3 / seconds))


def embedding_rows(part, name, top):
    config = part.config(SHAPES[name], small=dict(layers=1))
    bases = np.array(part.store.bases[:part.size(20_000, 200)])
    encoder = untrained_encoder(model_config(config))
    gflop = embedding_gflop(config.layers, config.hidden_size, WIDTH // config.k)
    for batch in part.size((512, 1024, 4096), (64,)):
        if part.left < 10: return
        def work(i): embed(encoder, bases, batch_size=batch, compute=part.compute, desc=None)
        pace = len(bases) / seconds_of(work, 2, part.compute.device)
        row = dict(shape=name, gflop=gflop, batch=batch, barcodes_per_second=pace,
                   share_of_peak=pace * gflop / top)
        part.put(embedding=part.found['embedding'] + [row])
        print(row, flush=True)


def speed(part):
    must_compile()
    dtypes = (torch.bfloat16, torch.float32)
    peaks = [matmul_gflops(part.compute.device, d, part.size(8192, 512), .5) for d in dtypes]
    top = peaks[dtypes.index(part.compute.dtype)]
    part.put(peak_gflops=dict(zip(('bfloat16', 'float32'), peaks)), steps=[], embedding=[])
    for name, batch in part.size(dict(paper=1024, gpu=512), dict(paper=4, gpu=8)).items():
        with part.finding(f'{name}, compiled'): compiled_step(part, name, batch, top)
    for name in SHAPES:
        with part.finding(f'embedding, {name}'): embedding_rows(part, name, top)
    rest = [('paper', 128, True), ('gpu', 2048, True)] # the paper's own batch, and a large one
    rest += [(name, batch, False) for batch in (128, 512, 1024, 2048) for name in SHAPES]
    for name, batch, compiled in part.size(rest, []):
        if part.left < 15 + 20 * compiled: return
        with part.finding(f'{name}, batch {batch}'): step_row(part, name, batch, compiled, top)

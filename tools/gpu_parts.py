"""The parts of gpu_kit.py, each a process of its own: python gpu_parts.py PART WORK OUT SECONDS

PART: smoke, speed, train or long. WORK holds the unpacked stores, OUT takes PART.json (written after each finding) and encoders."""
import json, sys, time, traceback
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
import numpy as np, torch
from gpu_kit import STORE, save_shards
from barcodemae.core import Compute, load_settings, machine_record, matmul_gflops, probe_compute, wait_for, write_json
from barcodemae.knn import GenusProbe, embed, nearest, untrained_encoder, whitening
from barcodemae.layers import compile_training
from barcodemae.model import VARIANTS, BarcodeMAEForPreTraining, random_masking
from barcodemae.architectures import ARCHITECTURES, SequenceForPreTraining, load_encoder
from barcodemae.presets import embedding_gflop, make_config, model_config, step_gflop
from barcodemae.register import register
from barcodemae.store import WIDTH, BarcodeStore
from barcodemae.tokenizer import kmer_ids
from barcodemae.train import Trainer, train

KEPT = ('mae', 'long') # runs whose encoders come back
RATES = (3e-3,) # learning rates that each variant tries in short runs; no search where there is one
PASSES = 35 * (2_284_232 + 41_250) # of the paper's pretraining on BIOSCAN-5M


class Part:
    "What a part has found, on disk as soon as it is known, and the time that is left."
    def __init__(self, name, work, out, seconds):
        self.work, self.out, self.path, self.end = Path(work), Path(out), Path(out)/f'{name}.json', time.time() + float(seconds)
        self.compute = probe_compute(load_settings().device)
        self.store = BarcodeStore.open(self.work/STORE)
        self.small = self.compute.device.type == 'cpu' # sizes for trying everything out
        self.found = dict(machine=machine_record(), commit=(Path(__file__).parent/'commit.txt').read_text().strip(), compute=self.compute.name, small=self.small, errors={})

    @property
    def left(self): return self.end - time.time()
    def size(self, full, small): return small if self.small else full

    def put(self, **values):
        self.found |= values
        write_json(self.path, self.found)

    @contextmanager
    def finding(self, name):
        "A failure is written down and the part goes on."
        try: yield
        except Exception as e:
            self.put(errors=self.found['errors'] | {name: f'{type(e).__name__}: {e}'[:500]})
            traceback.print_exc()


def seconds_of(work, n, device):
    "Mean seconds of `work(i)` over n calls in a row."
    wait_for(device); start = time.perf_counter()
    for i in range(n): work(i)
    wait_for(device)
    return (time.perf_counter() - start) / n


# -- smoke: are the answers right? ------------------------------------------------------------------------------------------------------------

def smoke(part):
    checks, device, cpu = [], part.compute.device, torch.device('cpu')
    def check(name, value, limit): print(f"{part.left:6.1f} s left  {name}: {value:.2g}", flush=True); checks.append(dict(name=name, value=float(value), limit=limit, ok=bool(value <= limit))); part.put(checks=checks)
    store = part.store
    bases, exact = np.array(store.bases[store.rows('pretrain')[:16]]), Compute(device, torch.float32)

    def gradients(net, place, dtype=torch.float32):
        "Loss and gradients of one batch whose masked k-mers were drawn on the CPU."
        ids, mask = (t.to(place) for t in kmer_ids(torch.from_numpy(bases), net.config.k))
        m = random_masking(ids.cpu(), mask.cpu(), .5, torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)))
        m = type(m)(*(t.to(place) for t in vars(m).values()))
        with Compute(place, dtype).autocast(): loss = net.to(place).train()(ids, mask, m, with_logits=False).loss
        net.zero_grad(); loss.backward()
        return loss.item(), torch.cat([p.grad.flatten().cpu().float() for p in net.parameters() if p.grad is not None])

    def apart(a, b): return max(abs(a[0] - b[0]) / abs(b[0]), ((a[1] - b[1]).norm() / b[1].norm()).item())

    for variant in part.size((*VARIANTS, *ARCHITECTURES), VARIANTS):
        with part.finding(variant):
            config = make_config('demo', variant=variant, hidden_size=64, layers=2, decoder_layers=2, k=4)
            torch.manual_seed(0)
            net = (BarcodeMAEForPreTraining if variant in VARIANTS else SequenceForPreTraining)(model_config(config))
            here = gradients(net, cpu)
            there = gradients(net, device)
            check(f'{variant}: loss and gradients as on the CPU', apart(there, here), 1e-3)
            if variant in VARIANTS: check(f'{variant}: in bf16', abs(gradients(net, device, torch.bfloat16)[0] - here[0]), .05)
            if variant in VARIANTS and not part.small: check(f'{variant}: compiled', apart(gradients(compile_training(net), device), here), 1e-3)

    with part.finding('embedding'):
        encoder = untrained_encoder(model_config(make_config('demo', hidden_size=64, layers=2)))
        there, low, here = (embed(encoder, bases, compute=c, quiet=True) for c in (exact, Compute(device, torch.bfloat16), Compute(cpu, torch.float32)))
        cosine = lambda a, b: (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        check('embedding as on the CPU: 1 - cosine', 1 - cosine(there, here).min(), 1e-5)
        check('embedding in bf16: 1 - cosine', 1 - cosine(low, here).min(), 1e-3)
        x = np.random.default_rng(0).standard_normal((3000, 64), np.float32)
        check('neighbours that differ from the CPU, share', (nearest(x[:500], x[500:], 5, device=device)[0] != nearest(x[:500], x[500:], 5)[0]).mean(), .001)

    with part.finding('resumed'):
        config = make_config('demo', dataset=STORE, registered=True, steps=20, log_steps=5, checkpoint_steps=10, validations=1, dropout=.1, random_offset=True)
        def stop(history):
            if history()[-1]['step'] >= 15: raise KeyboardInterrupt
        def last_loss(name, watch=None): # of a run that is stopped after its checkpoint, and continued
            try: train(config, store, part.work/name, exact, watch=watch)
            except KeyboardInterrupt: train(config, store, part.work/name, exact)
            return [line['loss'] for line in metrics(part.work/name) if 'loss' in line][-1]
        check('a resumed run: difference of the loss', abs(last_loss('stopped', stop) - last_loss('whole')), 2e-3)


def metrics(folder): return [json.loads(line) for line in (folder/'metrics.jsonl').read_text().splitlines()]


# -- speed: how much of the machine is used? -----------------------------------------------------------------------------------------------------

def speed(part):
    device, store, dtype = part.compute.device, part.store, part.compute.dtype
    peak = {str(d).removeprefix('torch.'): matmul_gflops(device, d, part.size(8192, 512), .5) for d in (torch.bfloat16, torch.float32)}
    top = peak[str(dtype).removeprefix('torch.')]
    part.put(peak_gflops=peak, steps=[], embedding=[])
    shapes = dict(paper=('bioscan5m', part.size(1024, 4)), gpu=('gpu', part.size(512, 8))) # preset, and the batch that is compiled

    def measure(name, preset, batch, compiled, n=part.size(8, 1)):
        config = make_config(preset, dataset=STORE, steps=100, batch_size=batch, compiled=compiled, **part.size({}, dict(layers=1, decoder_layers=1)))
        if device.type == 'cuda': torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        trainer = Trainer(config, store, part.compute, 100)
        for i in range(part.size(3, 1)): trainer.step(i)
        wait_for(device); begin = time.perf_counter() - start
        pace = trainer.batches.size / seconds_of(lambda i: trainer.step(3 + i), n, device)
        row = dict(shape=name, batch=trainer.batches.size, compiled=compiled, barcodes_per_second=pace, gflop=step_gflop(config),
                   share_of_peak=pace * step_gflop(config) / top, start_seconds=begin, commit=part.found['commit'],
                   gpu_memory_gb=torch.cuda.max_memory_allocated() / 1e9 if device.type == 'cuda' else None)
        part.put(steps=part.found['steps'] + [row]); print(row, flush=True)
        return row, trainer

    for name, (preset, batch) in shapes.items():
        with part.finding(f'{name}, compiled'):
            row, trainer = measure(name, preset, batch, not part.small)
            offset = torch.zeros(batch, dtype=torch.int64, device=device) if trainer.config.random_offset else None
            some = torch.as_tensor(np.array(store.bases[:batch])).to(device)
            tokens = lambda i: trainer.kmer_ids(some, trainer.config.k, offset)
            tokens(0)
            share = seconds_of(tokens, 20, device) / (batch / row['barcodes_per_second'])
            part.put(**{f'{name}_tokenization_share': share, f'{name}_profile': profile(trainer, device)})
            if name == 'paper': part.put(paper_hours=PASSES / row['barcodes_per_second'] / 3600)
            trainer = None

    for name, (preset, _) in shapes.items():
        for batch in part.size((128, 512, 1024, 2048, 4096)[name == 'gpu':(5 if name == 'gpu' else 4)], ()):
            if part.left < 25: break
            with part.finding(f'{name}, batch {batch}'): measure(name, preset, batch, False)

    bases = np.array(store.bases[:part.size(20_000, 200)])
    for name, (preset, _) in shapes.items():
        config = make_config(preset, **part.size({}, dict(layers=1)))
        encoder, gflop = untrained_encoder(model_config(config)), embedding_gflop(config.layers, config.hidden_size, WIDTH // config.k)
        for batch in part.size((512, 1024, 4096), (64,)):
            if part.left < 10: break
            with part.finding(f'embedding {name}, batch {batch}'):
                pace = len(bases) / seconds_of(lambda i: embed(encoder, bases, batch_size=batch, compute=part.compute, quiet=True), 2, device)
                row = dict(shape=name, batch=batch, barcodes_per_second=pace, share_of_peak=pace * gflop / top)
                part.put(embedding=part.found['embedding'] + [row]); print(row, flush=True)


def profile(trainer, device, steps=3):
    "The ten kernels that take longest in a step: name, milliseconds a step, share; and the share of the time in which none ran."
    from torch.profiler import ProfilerActivity, profile as record
    gpu = device.type == 'cuda'
    wait_for(device); start = time.perf_counter()
    with record(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as found:
        for i in range(steps): trainer.step(50 + i)
        wait_for(device)
    whole = time.perf_counter() - start
    spent = lambda e: (e.self_device_time_total if gpu else e.self_cpu_time_total) / 1e3
    events = sorted(found.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, events))
    return dict(kernels=[dict(kernel=e.key[:90], ms=spent(e) / steps, share=spent(e) / total, calls=e.count / steps) for e in events[:10]],
                ms=total / steps, idle_share=max(0., 1 - total / 1e3 / whole))


# -- train: the paper's three variants, equally long -------------------------------------------------------------------------------------------------

def judge(encoder, store, compute, most=None, fit=4000):
    "Genus 1-NN of unseen species against all of `train`, by layer, plain and whitened (fitted on pretraining barcodes): accuracy and each barcode's hit."
    known = lambda split: (r := store.rows(split))[store.labels('genus', r) != ''][:most]
    rows = {s: known(s) for s in ('train', 'val_unseen', 'test_unseen')}
    some = np.sort(np.random.default_rng(0).permutation(store.rows('pretrain'))[:fit])
    states = {s: embed(encoder, np.array(store.bases[r]), all_layers=True, compute=compute, desc=s) for s, r in (rows | dict(fit=some)).items()}
    found, genus = [], {s: store.labels('genus', r) for s, r in rows.items()}
    for layer in range(states['fit'].shape[1]):
        mean, matrix = whitening(states['fit'][:, layer])
        for whitened in (False, True):
            x = {s: (states[s][:, layer] - mean) @ matrix if whitened else states[s][:, layer] for s in rows}
            for query in ('val_unseen', 'test_unseen'):
                hit = genus['train'][nearest(x[query], x['train'], device=compute.device)[0][:, 0]] == genus[query]
                found.append(dict(layer=layer, whitened=whitened, query=query, n=len(hit), accuracy=100 * hit.mean(), hits=''.join('01'[int(h)] for h in hit)))
    return found


def variant_config(part, variant, **changes):
    small = dict(hidden_size=48, decoder_hidden_size=48, layers=2, decoder_layers=2, batch_size=32)
    return make_config('gpu', dataset=STORE, variant=variant, log_steps=part.size(50, 2), **part.size({}, small), **changes)


def pace_of(part, config):
    "Steps per second once compiled."
    trainer = Trainer(config, part.store, part.compute, 100)
    for i in range(3): trainer.step(i)
    return 1 / seconds_of(lambda i: trainer.step(3 + i), part.size(30, 3), part.compute.device)


def train_variants(part):
    runs = {}
    configs = {v: variant_config(part, v, steps=1) for v in VARIANTS}
    paces = {v: pace_of(part, c) for v, c in configs.items()}
    rates, judging = RATES, part.size(13, 8)
    # all variants take the same number of steps; a search takes a twelfth of them for each rate
    searching = len(rates) / 12 if len(rates) > 1 else 0
    steps = int(.92 * max(9, part.left - 3 * judging) / sum(1 / p for p in paces.values()) / (1 + searching))
    part.put(paces=paces, steps=steps, rates=rates, store=repr(part.store), runs=runs)
    probe = GenusProbe(part.store, part.compute, whiten=part.size(2000, 100), **part.size({}, dict(references=300)))
    for variant in VARIANTS:
        with part.finding(variant):
            search = {r: short_loss(part, variant_config(part, variant, steps=max(2, steps // 12), learning_rate=r, validations=1)) for r in rates if searching}
            rate = min(search or rates, key=lambda r: search.get(r, 0))
            print(variant, search, flush=True)
            config = variant_config(part, variant, steps=steps, learning_rate=rate, validations=part.size(10, 3))
            runs[variant] = full_run(part, variant, config, probe) | dict(search=search)
            part.put(runs=runs)


def short_loss(part, config):
    "Held-out loss at the end of a short run."
    folder = part.work/f'search-{config.variant}-{config.learning_rate}'
    train(config, part.store, folder, part.compute)
    return [line['val_loss'] for line in metrics(folder) if 'val_loss' in line][-1]


def full_run(part, name, config, probe):
    "A run to its end; its curve, its record, how its last encoder does, and the same encoder untrained."
    folder = part.work/name
    record = train(config, part.store, folder, part.compute, probe)
    encoder = load_encoder(folder/'last')
    untrained, few = untrained_encoder(encoder.config), part.size((), (300, 100))
    if name in KEPT: save_shards(encoder, part.out, name)
    curve = metrics(folder)
    print(name, [(c['barcodes'], c['genus_1nn'], c['genus_1nn_whitened']) for c in curve if 'genus_1nn' in c], flush=True)
    return dict(config=asdict(config), record=record, curve=curve, last=judge(encoder, part.store, part.compute, *few),
                untrained=judge(untrained, part.store, part.compute, *few) if name in KEPT else None)


# -- long: what is left of the time, for the best recipe ------------------------------------------------------------------------------------------

def long(part):
    shape = part.size(dict(hidden_size=384, layers=2, decoder_hidden_size=192, decoder_layers=1, decoder_heads=3, batch_size=1024), dict(hidden_size=32, batch_size=32))
    config = make_config('mini', **{'dataset': STORE, 'heads': part.size(6, 2), 'steps': 1, 'log_steps': part.size(50, 2), 'learning_rate': 4e-3} | shape)
    pace = pace_of(part, config)
    config = replace(config, steps=int(pace * (part.left - part.size(12, 5)) * .88), validations=part.size(16, 3))
    part.put(pace=pace, store=repr(part.store))
    probe = GenusProbe(part.store, part.compute, whiten=part.size(2000, 100), **part.size({}, dict(references=300)))
    part.put(run=full_run(part, 'long', config, probe))


if __name__ == '__main__':
    name, work, out, seconds = sys.argv[1:]
    part = Part(name, work, out, seconds)
    dict(smoke=smoke, speed=speed, train=train_variants, long=long)[name](part)
    part.put(seconds=float(seconds) - part.left)
    sys.exit(bool(part.found['errors']))

"""One prepared run for a GPU that is there for minutes only.

    python tools/gpu_kit.py pack gpu-kit        library, missing wheels and data in one folder (make gpu-kit)
        --data mine.csv                         your own barcodes in place of coi_mini and coi_wild
    python gpu-kit/gpu_kit.py run OUT           smoke, speed, train, long; each writes its result at once
        --parts speed train=240                 some of them, with other seconds
        --parts order                           the paper's order of variants: rates, seeds, lengths, 4-mers
        --device cpu --seconds 120              the same on a CPU, with models small enough for that
    python tools/gpu_kit.py collect OUT ...     encoders into checkpoints/gpu/DATASET, results into
        --to FILE                               one file, runs/gpu_results.json where not given

OUT gets PART.json for each part, and the encoders mae, long and long-VARIANT-0 as .safetensors.
The folder needs Python with PyTorch, transformers, accelerate, safetensors, NumPy, SciPy, scikit-learn and
tqdm, and no network."""
import argparse, json, os, shutil, subprocess, sys, tarfile, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = dict(smoke=125, speed=120, train=195, long=95, order=570) # seconds at most; the next gets a rest
USUAL = ('smoke', 'speed', 'train', 'long') # parts of a run where none are named
SOURCES = ('coi_mini', 'coi_wild') # data sets, side by side in one folder; labels are those of the first
BOTH, STORE = 'coi_wild_mini', 'store' # what they are called together; the folder of the packed data
NEEDED = ('torch', 'transformers', 'accelerate', 'safetensors', 'numpy', 'scipy', 'sklearn', 'tqdm')
WHEELS = ('fastcore',) # that a machine with the packages above lacks
FILES = ('gpu_kit.py', 'gpu_parts.py', 'gpu_checks.py', 'gpu_training.py', 'gpu_order.py')
SHARD = 15 * 2**20 # bytes of a file of weights, at most


# -- packing: on any machine -----------------------------------------------------------------------------

def pack(out, data=()): # names of data sets or files; none: SOURCES
    "Make the folder `out`, whole or not at all, and print what it weighs."
    from barcodemae.core import InputError, atomic_path
    from barcodemae.settings import find_dataset
    from barcodemae.compute import machine_record
    if Path(out).exists() and not (Path(out)/'commit.txt').exists():
        raise InputError('this folder holds something else', file=out, fix='name a new folder')
    try:
        folder = None if data else find_dataset(SOURCES[0]).parent
        files = [find_dataset(d) for d in data or [folder/f'{s}.csv.gz' for s in SOURCES]]
    except InputError as e:
        note = f'{e.message}; {" and ".join(SOURCES)} do not come with the project (data/README.md)'
        fix = 'give barcodes: --data mine.csv, or --data demo (simulated)'
        raise InputError(note, file=e.file, fix=fix) from None
    with atomic_path(out) as kit:
        kit.mkdir()
        for name in FILES: shutil.copy(HERE/name, kit)
        unwanted = shutil.ignore_patterns('__pycache__', 'encoder')
        shutil.copytree(HERE.parent/'barcodemae', kit/'barcodemae', ignore=unwanted)
        (kit/'commit.txt').write_text(f"{machine_record()['commit']}\n")
        fetch_wheels(kit/'wheels')
        pack_store(kit, files, None if data else BOTH)
    sizes = {str(p.relative_to(out)): p.stat().st_size / 2**20 for p in Path(out).rglob('*') if p.is_file()}
    for name, size in sorted(sizes.items(), key=lambda o: -o[1])[:6]: print(f'{size:8.2f} MiB  {name}')
    print(f'{sum(sizes.values()):8.2f} MiB  all {len(sizes)} files of {out}')


def fetch_wheels(folder):
    "The wheels of this environment's versions."
    from importlib.metadata import version
    wanted = [f'{name}=={version(name)}' for name in WHEELS]
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'download', '-q']
    subprocess.run([*pip, '--no-deps', '--only-binary=:all:', '-d', str(folder), *wanted], check=True)


def pack_store(kit, files, name):
    "The store, compressed; without its table, which only other machines can read."
    from barcodemae.data.store import prepare
    with tempfile.TemporaryDirectory() as temp:
        print(prepare(files, Path(temp)/STORE, name=name), flush=True)
        with tarfile.open(kit/f'{STORE}.tar.xz', 'w:xz') as tar:
            tar.add(Path(temp)/STORE, STORE, filter=lambda f: None if f.name.endswith('table.arrow') else f)


# -- running: on the machine with the GPU, within a time ---------------------------------------------------

def run(out, parts, seconds, device): # parts: name -> seconds
    "Each part in a process of its own: one that fails or hangs costs nothing but its own time."
    from importlib.util import find_spec
    if lacking := [name for name in NEEDED if not find_spec(name)]:
        sys.exit(f'gpu-kit: {sys.executable} has no {", ".join(lacking)}. Fix: install or carry them')
    scale = 1 if seconds is None else seconds / sum(parts.values())
    end, out, data = time.time() + scale * sum(parts.values()), Path(out).resolve(), HERE/f'{STORE}.tar.xz'
    if not data.exists(): sys.exit(f'gpu-kit: {data} is not there. Fix: run the copy in a packed folder')
    if there := [p for p in parts if (out/f'{p}.json').exists()]:
        sys.exit(f'gpu-kit: {out} has results of {", ".join(there)}. Fix: name another folder')
    out.mkdir(parents=True, exist_ok=True)
    work, failed = Path(tempfile.mkdtemp(prefix='gpu-kit-')), []
    with tarfile.open(data) as t: t.extractall(work, filter='data')
    paths = [HERE, *(HERE/'wheels').glob('*.whl')] # pure Python is imported from where it is packed
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)), BARCODEMAE_DEVICE=device,
               PYTHONUNBUFFERED='1', TQDM_DISABLE='1')
    env.setdefault('TORCHINDUCTOR_CACHE_DIR', str(work/'inductor'))
    for i, part in enumerate(parts):
        left = end - time.time() - scale * sum(list(parts.values())[i + 1:])
        print(f'gpu-kit: {part}, {left:.0f} s at most', flush=True)
        start = time.time()
        command = [sys.executable, HERE/'gpu_parts.py', part, work, out, f'{left - 5:.0f}']
        try: code = subprocess.run([str(c) for c in command], env=env, timeout=left).returncode
        except subprocess.TimeoutExpired: code = 'out of time'
        print(f'gpu-kit: {part} ended with {code} after {time.time() - start:.0f} s', flush=True)
        if code: failed.append(part)
    shutil.rmtree(work, ignore_errors=True)
    for p in sorted(out.iterdir()): print(f'{p.stat().st_size / 2**20:8.2f} MiB  {p.name}')
    if failed: sys.exit(f"gpu-kit: not whole: {', '.join(failed)}")


# -- collecting: where the notebook is ---------------------------------------------------------------------

def collect(folders, kept=None):
    "Results into the file `kept`, joined to what it holds of the same GPU; encoders into checkpoints."
    from barcodemae.settings import load_settings
    from barcodemae.core import read_json, write_json
    settings = load_settings(HERE)
    kept = Path(kept or settings.runs/'gpu_results.json')
    results = read_json(kept) if kept.exists() else {}
    for folder in map(Path, folders):
        found = [p for p in PARTS if (folder/f'{p}.json').exists()]
        if not found: sys.exit(f'gpu-kit: no results in {folder}. Fix: give the folder OUT of a run')
        for part in found:
            new = read_json(folder/f'{part}.json')
            if other := {machine(r) for r in results.values() if 'machine' in r} - {machine(new)}:
                sys.exit(f'gpu-kit: {kept} is of {other.pop()}, {folder} of {machine(new)}. '
                         'Fix: --to another file')
            results[part] = joined(results.get(part, {}), of_last_layer(new) if part == 'order' else new)
            if not new.get('whole'): print(f'{folder/part}.json: the part did not come to its end')
        place = settings.checkpoints/'gpu'/new.get('dataset', BOTH)
        for first in folder.glob('*-0.safetensors'):
            print(join_shards(first, place/first.name.removesuffix('-0.safetensors')))
    if 'controls' not in results and results.get('train', {}).get('dataset') == BOTH:
        from gpu_controls import controls
        results['controls'] = controls()
    write_json(kept, results)
    print(f'{kept}: {", ".join(results)}')


def machine(found): return found['machine']['gpu'] or found['machine']['cpu']


def of_last_layer(found):
    "Findings of `order` without what its notebook does not show: how layers below the last one do."
    def last(rows): return [r for r in rows if r['layer'] == max(r['layer'] for r in rows)]
    def brief(run): return run | {k: last(run[k]) for k in ('last', 'lowest_loss', 'untrained') if k in run}
    return found | dict(runs={name: brief(run) for name, run in found['runs'].items()})


def joined(old, new):
    "Findings of a part that ran twice: the newer ones, and of timings also those that were not taken again."
    found = old | new
    def key(row): return tuple(row.get(k) for k in ('shape', 'gflop', 'batch', 'compiled'))
    for name in ('steps', 'embedding'):
        if not isinstance(new.get(name), list): continue
        rows = {key(row): row | dict(earlier=True) for row in old.get(name, [])}
        found[name] = list((rows | {key(row): row for row in new[name]}).values())
    return found


def save_shards(encoder, out, name):
    "An encoder in bf16, in files small enough to come back; their metadata is the configuration."
    import torch
    from safetensors.torch import save_file
    shards, size = [{}], 0
    for key, w in encoder.state_dict().items():
        w = w.detach().to('cpu', torch.bfloat16).contiguous()
        if size + w.nbytes > SHARD:
            shards.append({})
            size = 0
        shards[-1][key], size = w, size + w.nbytes
    about = dict(config=json.dumps(encoder.config.to_dict()), shards=str(len(shards)))
    for i, shard in enumerate(shards): save_file(shard, Path(out)/f'{name}-{i}.safetensors', about)


def join_shards(first, folder):
    "Write the encoder of `save_shards` and its tokenizer; `InputError` where a shard is missing."
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import AutoModel
    from barcodemae.core import InputError, atomic_path
    from barcodemae.model.mae import BarcodeMAEConfig
    from barcodemae.model.tokenizer import tokenizer_of
    with safe_open(first, 'pt') as file: about = file.metadata()
    config = {k: v for k, v in json.loads(about['config']).items() if k != 'model_type'}
    encoder, weights = AutoModel.from_config(BarcodeMAEConfig(**config)), {}
    for i in range(int(about['shards'])):
        path = first.with_name(first.name.replace('-0.safetensors', f'-{i}.safetensors'))
        if not path.exists():
            raise InputError(f"one of {about['shards']} shards is missing", file=path, fix='fetch them all')
        weights |= {k: w.float() for k, w in load_file(path).items()}
    encoder.load_state_dict(weights)
    with atomic_path(folder) as temp:
        encoder.save_pretrained(temp)
        tokenizer_of(encoder.config).save_pretrained(temp)
    return folder


# -- the command ---------------------------------------------------------------------------------------------

def box(text): # 'train' or 'train=240' -> name, seconds
    name, _, seconds = text.partition('=')
    known = ', '.join(PARTS)
    if name not in PARTS: raise argparse.ArgumentTypeError(f'no such part: {name}; there are {known}')
    if not (seconds or '1').isdigit(): raise argparse.ArgumentTypeError(f'{seconds} is no number of seconds')
    return name, float(seconds or PARTS[name])


def main():
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest='command', required=True)
    packing, running, collecting = (commands.add_parser(c) for c in ('pack', 'run', 'collect'))
    packing.add_argument('out', help='folder to make')
    packing.add_argument('--data', nargs='+', default=(), help='files of barcodes, or names in settings.ini')
    collecting.add_argument('folders', nargs='+', help='what `run` wrote')
    collecting.add_argument('--to', help='file of results; runs/gpu_results.json where not given')
    running.add_argument('out', help='folder for results and encoders')
    usual = [(name, PARTS[name]) for name in USUAL]
    running.add_argument('--parts', nargs='+', type=box, default=usual, metavar='PART[=SECONDS]',
                         help=', '.join(f'{name}={seconds}' for name, seconds in PARTS.items()))
    running.add_argument('--seconds', type=float, help='for all of them together, shared out in proportion')
    running.add_argument('--device', default='cuda', help='cuda, cuda:1 or cpu')
    a = parser.parse_args()
    if a.command == 'pack': pack(a.out, a.data)
    elif a.command == 'collect': collect(a.folders, a.to)
    else: run(a.out, dict(a.parts), a.seconds, a.device)


if __name__ == '__main__': main()

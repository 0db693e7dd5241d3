"""One prepared run for a GPU that is there for minutes only.

    python tools/gpu_kit.py pack gpu-kit             library, missing wheels and packed data sets into one folder (make gpu-kit)
    python gpu-kit/gpu_kit.py run OUT                all parts on a GPU: smoke, speed, train, long; each writes its result at once
    python gpu-kit/gpu_kit.py run OUT --parts speed train=240        some of them, with other seconds
    python gpu-kit/gpu_kit.py run OUT --device cpu --seconds 120     the same on a CPU, with models small enough for that
    python tools/gpu_kit.py collect OUT [OUT ...]    what came back, to where nbs/experiments/gpu.ipynb looks for it

The folder needs Python with PyTorch, transformers, accelerate, safetensors, NumPy, SciPy, scikit-learn and tqdm, and no network."""
import argparse, json, os, shutil, subprocess, sys, tarfile, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = dict(smoke=75, speed=110, train=220, long=125) # seconds at most; what a part leaves over goes to the next
STORE, SOURCES = 'coi_wild_mini', ('coi_mini', 'coi_wild') # one store of both: all their `pretrain`, and coi_mini's other partitions
WHEELS = ('fastcore',) # that a machine with the packages above lacks
FILE = 15 * 2**20 # bytes of a file that comes back, at most


# -- packing: on any machine ------------------------------------------------------------------------------------------------------------------

def pack(out):
    "Make the folder `out`, whole or not at all, and print what it weighs."
    from barcodemae.core import atomic_path, machine_record
    with atomic_path(out) as kit:
        kit.mkdir()
        for name in ('gpu_kit.py', 'gpu_parts.py'): shutil.copy(HERE/name, kit)
        shutil.copytree(HERE.parent/'barcodemae', kit/'barcodemae', ignore=shutil.ignore_patterns('__pycache__', 'encoder'))
        from importlib.metadata import version
        subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', 'download', '-q', '--no-deps', '--only-binary=:all:', '-d', kit/'wheels',
                        *(f'{w}=={version(w)}' for w in WHEELS)], check=True)
        (kit/'commit.txt').write_text(f"{machine_record()['commit']}\n")
        pack_store(kit)
    sizes = {str(p.relative_to(out)): p.stat().st_size for p in Path(out).rglob('*') if p.is_file()}
    for name, size in sorted(sizes.items(), key=lambda o: -o[1])[:6]: print(f'{size / 2**20:8.2f} MiB  {name}')
    print(f'{sum(sizes.values()) / 2**20:8.2f} MiB  all {len(sizes)} files of {out}')


def pack_store(kit):
    "The store, compressed; without its table, which only other machines can read."
    from barcodemae.core import find_dataset
    from barcodemae.store import prepare
    folder = find_dataset(SOURCES[0]).parent
    with tempfile.TemporaryDirectory() as temp:
        print(prepare([folder/f'{s}.csv.gz' for s in SOURCES], Path(temp)/STORE, name=STORE), flush=True)
        with tarfile.open(kit/f'{STORE}.tar.xz', 'w:xz') as tar:
            tar.add(Path(temp)/STORE, STORE, filter=lambda f: None if f.name.endswith('table.arrow') else f)


# -- running: on the machine with the GPU, within a time ------------------------------------------------------------------------------------------

def run(out, parts, seconds, device): # parts: name -> seconds
    "Each part in a process of its own, so that one that fails or takes too long costs nothing but its own time."
    scale = 1 if seconds is None else seconds / sum(parts.values())
    end, out = time.time() + scale * sum(parts.values()), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix='gpu-kit-'))
    for tar in HERE.glob('*.tar.xz'):
        with tarfile.open(tar) as t: t.extractall(work, filter='data')
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, [HERE, *(HERE/'wheels').glob('*.whl')])), 'BARCODEMAE_DEVICE': device,
           'TORCHINDUCTOR_CACHE_DIR': str(work/'inductor'), 'PYTHONUNBUFFERED': '1', 'TQDM_DISABLE': '1', 'TOKENIZERS_PARALLELISM': 'false'}
    failed = []
    for i, part in enumerate(parts):
        left = end - time.time() - scale * sum(list(parts.values())[i + 1:])
        print(f'gpu-kit: {part}, {left:.0f} s at most', flush=True)
        start = time.time()
        command = [sys.executable, HERE/'gpu_parts.py', part, str(work), str(out), f'{left - 5:.0f}']
        try: code = subprocess.run([str(c) for c in command], env=env, timeout=left).returncode
        except subprocess.TimeoutExpired: code = 'out of time'
        print(f'gpu-kit: {part} ended with {code} after {time.time() - start:.0f} s', flush=True)
        if code: failed.append(part)
    shutil.rmtree(work, ignore_errors=True)
    for p in sorted(out.iterdir()): print(f'{p.stat().st_size / 2**20:8.2f} MiB  {p.name}')
    sys.exit(f"gpu-kit: not whole: {', '.join(failed)}" if failed else 0)


# -- collecting: where the notebook is --------------------------------------------------------------------------------------------------------

def collect(folders):
    "Results into nbs/experiments/gpu_results.json, encoders into checkpoints/gpu/."
    from barcodemae.core import load_settings, read_json, write_json
    settings = load_settings(HERE)
    kept = settings.root/'nbs/experiments/gpu_results.json'
    results = read_json(kept) if kept.exists() else {}
    for folder in map(Path, folders):
        for part in PARTS:
            if (folder/f'{part}.json').exists(): results[part] = joined(results.get(part, {}), read_json(folder/f'{part}.json'))
    from gpu_controls import controls
    results['controls'] = results.get('controls') or controls()
    for folder in map(Path, folders):
        for first in folder.glob('*-0.safetensors'): print(join_shards(first, settings.checkpoints/'gpu'/first.name.removesuffix('-0.safetensors')))
    write_json(kept, results)
    print(f'{kept.relative_to(settings.root)}: {", ".join(results)}')


def joined(old, new):
    "Findings of a part that ran twice: the newer ones, and of timings also those that were not taken again."
    found = old | new
    for name in ('steps', 'embedding'):
        if isinstance(new.get(name), list):
            rows = {tuple(r.get(k) for k in ('shape', 'gflop', 'batch', 'compiled')): r for r in [*old.get(name, []), *new[name]]}
            found[name] = list(rows.values())
    return found


def save_shards(encoder, out, name):
    "An encoder in bf16, in files small enough to come back; the first one's metadata is the configuration."
    import torch
    from safetensors.torch import save_file
    shards, size = [{}], 0
    for key, w in encoder.state_dict().items():
        w = w.detach().to('cpu', torch.bfloat16).contiguous()
        if size + w.nbytes > FILE: shards.append({}); size = 0
        shards[-1][key] = w; size += w.nbytes
    for i, shard in enumerate(shards): save_file(shard, Path(out)/f'{name}-{i}.safetensors', dict(config=json.dumps(encoder.config.to_dict()), shards=str(len(shards))))


def join_shards(first, folder):
    "The encoder of `save_shards`, in 32 bits, with its tokenizer."
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import AutoModel
    from barcodemae.core import InputError, atomic_path
    from barcodemae.architectures import BarcodeEncoder
    from barcodemae.model import BarcodeMAEConfig
    from barcodemae.tokenizer import KmerTokenizer
    with safe_open(first, 'pt') as file: about = file.metadata()
    config = {k: v for k, v in json.loads(about['config']).items() if k != 'model_type'}
    encoder, weights = AutoModel.from_config(BarcodeMAEConfig(**config)), {}
    for i in range(int(about['shards'])):
        path = first.with_name(first.name.replace('-0.safetensors', f'-{i}.safetensors'))
        if not path.exists(): raise InputError(f"one of {about['shards']} shards is missing", file=path, mend='fetch all of them')
        weights |= {k: w.float() for k, w in load_file(path).items()}
    encoder.load_state_dict(weights)
    assert isinstance(encoder, BarcodeEncoder)
    with atomic_path(folder) as temp: encoder.save_pretrained(temp); KmerTokenizer(k=encoder.config.k).save_pretrained(temp)
    return folder


def box(text): # 'train' or 'train=240' -> name, seconds
    name, _, seconds = text.partition('=')
    if name not in PARTS: raise argparse.ArgumentTypeError(f"no such part: {name}; there are {', '.join(PARTS)}")
    return name, float(seconds or PARTS[name])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    commands.add_parser('pack').add_argument('out')
    commands.add_parser('collect').add_argument('folders', nargs='+')
    running = commands.add_parser('run')
    running.add_argument('out')
    running.add_argument('--parts', nargs='+', type=box, default=list(PARTS.items()), metavar='PART[=SECONDS]')
    running.add_argument('--seconds', type=float, help='for all of them together, shared out in proportion')
    running.add_argument('--device', default='cuda')
    a = parser.parse_args()
    if a.command == 'pack': pack(a.out)
    elif a.command == 'collect': collect(a.folders)
    else: run(a.out, dict(a.parts), a.seconds, a.device)


if __name__ == '__main__': main()

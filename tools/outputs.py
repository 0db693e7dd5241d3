"""Kept outputs belong to their cells: a code cell with outputs keeps a hash of the source that made them.

    python tools/outputs.py run nbs/x.ipynb ...        execute the notebooks, clean them, stamp their cells
    python tools/outputs.py check [nbs/x.ipynb ...]    name the cells whose output is older than their source
    python tools/outputs.py stamp --adopt [...]        stamp outputs that are older than the stamps themselves

The hash is in the cell's metadata; nbdev-clean leaves it there (pyproject.toml allows its key).
It covers the cell alone: after a change further up, or in the library, run the notebook all the same.
"""
import argparse, hashlib, os, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import nbformat

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
KEY = 'source_hash'


def notebooks():
    "All notebooks of the project, `_drafts` and hidden folders apart."
    inside = lambda p: not any(part.startswith(('_', '.')) for part in p.relative_to(ROOT).parts)
    return sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if inside(p))


def shown(path):
    "`path` as messages give it: from the project's root where it lies inside."
    path = Path(path).resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def read(path):
    if not path.is_file(): sys.exit(f'{shown(path)}: no such notebook. Fix: give the path of an .ipynb file')
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError, ValueError):
        sys.exit(f'{shown(path)}: this is no notebook. Fix: take its last version from git')
    return nb


def write(nb, path):
    "What nbdev-clean leaves of `nb`, whole or not at all."
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder)/path.name
        nbformat.write(nb, clean)
        done = subprocess.run([BIN/'nbdev-clean', '--fname', clean], cwd=ROOT, capture_output=True, text=True)
        if done.returncode or 'Failed to clean' in done.stderr:
            sys.exit(f'{shown(path)} cannot be cleaned:\n{done.stderr}Fix: what nbdev-clean complains of')
        temp = path.with_name(f'.tmp-{path.name}')
        shutil.copyfile(clean, temp)
    os.replace(temp, path)


def source_hash(source):
    "Of a cell's source; white space at the ends of lines and of the cell does not count."
    text = '\n'.join(line.rstrip() for line in source.rstrip().splitlines())
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def title(source):
    "The first line that says what a cell does: neither empty nor a directive."
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith('#|')), ' '.join(lines) or '(empty)')[:80]


def stale(nb):
    "`(number from 1, first line, what is wrong)` of each cell whose outputs are not known to be its own."
    for number, cell in enumerate(nb.cells, start=1):
        if cell.cell_type != 'code' or not cell.outputs: continue
        made_from = cell.metadata.get(KEY)
        if made_from is None: yield number, title(cell.source), 'output without a stamp'
        elif made_from != source_hash(cell.source): yield number, title(cell.source), 'source changed since'


def check(paths):
    "Exits naming notebook, cell and first line of each output that is older than its source."
    found = [(path, list(stale(read(path)))) for path in paths]
    for path, cells in found:
        for number, line, wrong in cells: print(f'{shown(path)}, cell {number}: {wrong}: {line}')
    wrong = [shown(path) for path, cells in found if cells]
    if wrong: sys.exit(f"Fix: python tools/outputs.py run {' '.join(wrong)}, then read the outputs")


def joined_streams(outputs):
    "Prints that follow each other as one output: where they were parted depends on the machine's pace."
    kept = []
    for output in outputs:
        if kept and output.output_type == kept[-1].output_type == 'stream': kept[-1].text += output.text
        else: kept.append(output)
    return kept


def execute(nb, path):
    "`nb` after its cells ran in the folder of `path`, those with `#| eval: false` apart; writes no file."
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    joined = lambda first, name: os.pathsep.join([str(first), *filter(None, [os.environ.get(name)])])
    env = dict(os.environ, PATH=joined(BIN, 'PATH'), PYTHONPATH=joined(ROOT, 'PYTHONPATH'))
    folder = {'metadata': {'path': str(path.resolve().parent)}}
    client = NotebookClient(nb, timeout=None, kernel_name='python3', resources=folder,
                            record_timing=False, store_widget_state=False)
    with client.setup_kernel(env=env):
        for number, cell in enumerate(nb.cells, start=1):
            if cell.cell_type != 'code' or re.search(r'^#\|\s*eval:\s*false', cell.source, re.M): continue
            cell.outputs = []
            cell.metadata.pop(KEY, None)
            try: client.execute_cell(cell, number - 1)
            except (CellExecutionError, DeadKernelError) as e:
                sys.exit(f'{e}\n{shown(path)}, cell {number} failed: {title(cell.source)}\n'
                         'The file is as it was. Fix: correct the cell, then run the notebook again')
            cell.outputs = joined_streams(o for o in cell.outputs if o.get('name') != 'stderr')
            if cell.outputs: cell.metadata[KEY] = source_hash(cell.source)
    return nb


def run(paths):
    "Execute, clean and stamp; a notebook that fails stays as it was."
    for path in paths:
        start = time.time()
        write(execute(read(path), path), path)
        print(f'{shown(path)}: executed in {time.time() - start:.0f} s', flush=True)


def adopt(paths):
    "Stamp outputs that have no stamp. Those whose source changed since they were stamped have to be run."
    for path in paths:
        nb = read(path)
        new = [c for c in nb.cells if c.cell_type == 'code' and c.outputs and KEY not in c.metadata]
        for cell in new: cell.metadata[KEY] = source_hash(cell.source)
        if new: write(nb, path)
        print(f'{shown(path)}: {len(new)} outputs stamped', flush=True)


def main(argv=None):
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument('what', choices=['run', 'check', 'stamp'])
    parser.add_argument('notebooks', nargs='*', type=Path, help='by default all of nbs/, but for `run`')
    parser.add_argument('--adopt', action='store_true', help='vouch for outputs that have no stamp yet')
    args = parser.parse_intermixed_args(argv)
    if args.what == 'run' and not args.notebooks: parser.error('run needs the notebooks to execute')
    if args.what == 'stamp' and not args.adopt:
        parser.error('only running a notebook shows that its outputs are its own. '
                     'Fix: python tools/outputs.py run nbs/x.ipynb; for outputs from before: stamp --adopt')
    {'run': run, 'check': check, 'stamp': adopt}[args.what](args.notebooks or notebooks())


if __name__ == '__main__': main()

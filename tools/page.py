"""What makes code readable on a page, checked: `python tools/page.py nbs/data/*.ipynb` (without files: all).

Lines of at most 110 columns, cells of 25 lines, 7 parameters a function, a text for every parameter and a docstring
for everything public, imports that run down the ladder of packages without a circle. Of a notebook that exports a
module the module is imported and its documentation read."""
import ast, graphlib, json, re, sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from page_docs import module_gaps  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
LADDER = ('ground', 'data', 'model', 'embedding', 'evaluation', 'training', 'bench', 'identification', 'cli')
COLUMNS, CELL, PARAMETERS = 110, 25, 7
WIDE = .01 # share of a notebook's lines that may be wider
GENERATED = {'_modidx.py'}


class Fault(NamedTuple):
    kind: str  # columns, cell, parameters, docment, docstring, import
    where: str # file, and cell of a notebook (the first is 0)
    what: str

    def __str__(self): return f'{self.where}: {self.what}'


def shown(path): return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def modules(): # file -> dotted name, without barcodemae/__init__.py, which is the front door
    found = [p for p in sorted((ROOT/'barcodemae').rglob('*.py')) if p.name not in GENERATED]
    name = lambda p: '.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    return {p: name(p) for p in found if name(p) != 'barcodemae'}


def notebooks(): return [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]


def cells(path:Path) -> list: # of (number, kind, source)
    read = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(i, c['cell_type'], ''.join(c['source'])) for i, c in enumerate(read)]


def wide_lines(text:str, markdown:bool) -> list: # numbers of lines from 1
    "Lines over 110 columns; tables, links and addresses of Markdown and the `__all__` that nbdev writes may be."
    found, generated = [], False
    for n, line in enumerate(text.split('\n'), 1):
        generated = line.startswith('__all__ = [') or generated and line.startswith('           ')
        if markdown: line = re.sub(r'\]\([^)]*\)|https?://\S+', ']', '' if line.lstrip().startswith('|') else line)
        if len(line) > COLUMNS and not generated: found.append(n)
    return found


def parameter_faults(source:str, where:str) -> list:
    "Functions with more than 7 parameters: self and cls are not counted, nor is that of a patched method."
    try: tree = ast.parse(re.sub(r'^([%!])', r'#\1', source, flags=re.M))
    except SyntaxError: return []
    found = []
    for f in ast.walk(tree):
        if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        names = [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
        names = [n for n in names if n not in ('self', 'cls')] + [a for a in (f.args.vararg, f.args.kwarg) if a]
        if len(names) > PARAMETERS:
            found.append(Fault('parameters', where, f'{f.name}() has {len(names)} parameters, at most {PARAMETERS}: '
                               'put options into a dataclass'))
    return found


def notebook_faults(path:Path) -> list:
    "Of columns (all wide lines once they are 1 % of the lines), cells and parameters."
    found, wide, total = [], [], 0
    for i, kind, source in cells(path):
        where, lines = f'{shown(path)} cell {i}', source.split('\n')
        total += len(lines)
        wide += [Fault('columns', f'{where} line {n}', f'{len(lines[n - 1])} columns, at most {COLUMNS}: '
                       f'{lines[n - 1].strip()[:60]}') for n in wide_lines(source, kind != 'code')]
        if kind != 'code': continue
        body = [line for line in lines if not line.startswith('#|')]
        if len(body) > CELL: found.append(Fault('cell', where, f'{len(body)} lines, at most {CELL}: split the cell'))
        found += parameter_faults(source, where)
    return (wide if len(wide) >= max(1, WIDE * total) else []) + found


def module_faults(path:Path) -> list:
    "Of columns (none may be wide) and parameters."
    text = path.read_text(encoding='utf-8')
    lines = text.split('\n')
    return [Fault('columns', f'{shown(path)} line {n}', f'{len(lines[n - 1])} columns, at most {COLUMNS}: '
                  f'{lines[n - 1].strip()[:60]}') for n in wide_lines(text, False)] + parameter_faults(text, shown(path))


def documentation_faults(name:str) -> list:
    "Of docments and docstrings of a module by its dotted name."
    try: return [Fault(kind, name, what) for kind, what in module_gaps(name)]
    except Exception as e: return [Fault('docstring', name, f'cannot be read: {type(e).__name__}: {e}')]


def imports(path:Path, name:str, known:set) -> set: # dotted names of modules
    "What a module imports of the library, also inside of functions and by `import_module('barcodemae.x')`."
    found, package = set(), name.split('.') if path.name == '__init__.py' else name.split('.')[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            base = '.'.join([*base, *([node.module] if node.module else [])])
            inside = {f'{base}.{a.name}' for a in node.names}
            found |= inside & known | ({base} if inside - known else set())
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module') and node.args:
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return (found & known) - {name}


def floor(name): # of the ladder
    package = name.split('.')[1] if name.count('.') > 1 or (ROOT/name.replace('.', '/')).is_dir() else 'ground'
    return LADDER.index('cli' if name == 'barcodemae.cli' else package)


def import_faults() -> list:
    "Imports that run upwards, packages that are not on the ladder, and a circle of modules if there is one."
    names = modules()
    graph = {name: imports(path, name, set(names.values())) for path, name in names.items()}
    lost = [n for n in graph if n.count('.') > 1 and n.split('.')[1] not in LADDER]
    if lost: return [Fault('import', n, f'its package is not on the ladder {LADDER} of tools/page.py') for n in lost]
    found = [Fault('import', name, f'imports {used}, which is above it: {" < ".join(LADDER)}')
             for name, all_used in graph.items() for used in sorted(all_used) if floor(used) > floor(name)]
    try: graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e: found.append(Fault('import', e.args[1][0], f'a circle: {" <- ".join(e.args[1])}'))
    return found


def check_file(path:Path) -> list: # of Faults
    "All of a notebook and of the module that it exports, or of a module."
    if path.suffix != '.ipynb':
        name = modules().get(path)
        return module_faults(path) + (documentation_faults(name) if name else [])
    exports = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(s for _, _, s in cells(path)), re.M)
    return notebook_faults(path) + (documentation_faults(f'barcodemae.{exports[1]}') if exports else [])


if __name__ == '__main__':
    chosen = [Path(a).resolve() for a in sys.argv[1:]]
    per_file = {p: check_file(p) for p in chosen or [*notebooks(), *sorted((ROOT/'tools').glob('*.py'))]}
    for fault in (faults := [f for found in per_file.values() for f in found] + import_faults()): print(fault)
    kinds = Counter(f.kind for f in faults)
    for p, found in per_file.items():
        if found: print(f'{len(found):5d} {shown(p)}', dict(Counter(f.kind for f in found)))
    print(f'{len(faults)} to change', dict(kinds))
    sys.exit(bool(faults))

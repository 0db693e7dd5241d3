"""What makes code readable on a page, checked: `python tools/page.py nbs/data/*.ipynb` (without files: all).

Lines of at most 110 columns, cells of 25 lines, 7 parameters a function, a text for every parameter and a
docstring for everything public, imports that run down the ladder of packages without a circle. Of a notebook
that exports a module, the module is imported and its documentation read."""
import ast, json, re, sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
from ladder import ROOT, import_faults, import_graph, modules  # noqa: E402
from page_docs import module_gaps  # noqa: E402

COLUMNS, CELL, PARAMETERS = 110, 25, 7
WIDE = .01 # share of a notebook's lines that may be wider, where they are not exported


class Fault(NamedTuple):
    kind: str  # columns, cell, parameters, docment, docstring, import
    where: str # file, and cell of a notebook (the first is 0); or a module
    what: str

    def __str__(self): return f'{self.where}: {self.what}'


def shown(path): return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def notebooks():
    return [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]


def cells(path:Path) -> list: # of (number, kind, source)
    read = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(i, c['cell_type'], ''.join(c['source'])) for i, c in enumerate(read)]


def wide_lines(text:str, where:str, markdown:bool=False) -> list: # of Faults
    "Lines over 110 columns, but for tables, links and addresses of Markdown and the `__all__` of nbdev."
    found, generated = [], False
    for n, line in enumerate(text.split('\n'), 1):
        generated = line.startswith('__all__ = [') or generated and line.startswith(' '*11)
        width = len(re.sub(r'\]\([^)]*\)|https?://\S+', ']', line) if markdown else line)
        if width <= COLUMNS or generated or markdown and line.lstrip().startswith('|'): continue
        what = f'{width} columns, at most {COLUMNS}: {line.strip()[:60]}'
        found.append(Fault('columns', f'{where} line {n}', what))
    return found


def parameter_faults(source:str, where:str) -> list: # of Faults
    "Functions with more than 7 parameters; self and cls are not counted, *args and **kwargs once each."
    try: tree = ast.parse(re.sub(r'^([%!])', r'#\1', source, flags=re.M))
    except SyntaxError: return []
    found = []
    for f in ast.walk(tree):
        if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        names = [a.arg for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
        n = sum(name not in ('self', 'cls') for name in names) + bool(f.args.vararg) + bool(f.args.kwarg)
        if n > PARAMETERS:
            found.append(Fault('parameters', where, f'{f.name}() has {n} parameters, at most {PARAMETERS}. '
                               'Fix: options in a dataclass'))
    return found


def notebook_faults(path:Path) -> list: # of Faults
    "Of columns (exported: every wide line; others: once they are 1 % of all), cells and parameters."
    found, wide, total = [], [], 0
    for i, kind, source in cells(path):
        where, lines = f'{shown(path)} cell {i}', source.split('\n')
        total += len(lines)
        exported = re.search(r'^#\|\s*export', source, re.M)
        (found if exported else wide).extend(wide_lines(source, where, kind != 'code'))
        if kind != 'code': continue
        n = len(lines)
        if n > CELL: found.append(Fault('cell', where, f'{n} lines, at most {CELL}. Fix: split the cell'))
        found += parameter_faults(source, where)
    return found + (wide if len(wide) >= max(1, WIDE * total) else [])


def module_faults(path:Path) -> list: # of Faults
    "Of columns (no line may be wide) and parameters."
    text = path.read_text(encoding='utf-8')
    return wide_lines(text, shown(path)) + parameter_faults(text, shown(path))


def documentation_faults(name:str) -> list: # of Faults
    "Of docments and docstrings of a module by its dotted name."
    try: return [Fault(kind, name, what) for kind, what in module_gaps(name)]
    except Exception as e: return [Fault('docstring', name, f'cannot be read: {type(e).__name__}: {e}')]


def check_file(path:Path) -> list: # of Faults
    "All of a notebook and of the module that it exports, or of a module."
    if path.suffix != '.ipynb':
        name = modules().get(path)
        return module_faults(path) + (documentation_faults(name) if name else [])
    exports = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(s for _, _, s in cells(path)), re.M)
    return notebook_faults(path) + (documentation_faults(f'barcodemae.{exports[1]}') if exports else [])


def counts(faults): return dict(Counter(f.kind for f in faults))


if __name__ == '__main__':
    chosen = [Path(a).resolve() for a in sys.argv[1:]]
    per_file = {p: check_file(p) for p in chosen or notebooks()}
    faults = [f for found in per_file.values() for f in found]
    faults += [Fault('import', name, what) for name, what in import_faults(import_graph())]
    for fault in faults: print(fault)
    for p, found in per_file.items():
        if found and len(per_file) > 1: print(f'{len(found):5d} {shown(p)}', counts(found))
    print(f'{len(faults)} to change', counts(faults))
    sys.exit(bool(faults))

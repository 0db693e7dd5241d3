"""For tools/page.py: which module imports which, and whether that runs down the ladder of packages."""
import ast, graphlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A package imports those before it. Modules directly in barcodemae/ are of the ground, but for cli.py.
LADDER = ('ground', 'data', 'model', 'embedding', 'evaluation', 'training', 'bench', 'identification', 'cli')
GENERATED = {'_modidx.py'}


def modules(): # file -> dotted name, without barcodemae/__init__.py, which is the front door
    found = [p for p in sorted((ROOT/'barcodemae').rglob('*.py')) if p.name not in GENERATED]
    name = lambda p: '.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    return {p: name(p) for p in found if name(p) != 'barcodemae'}


def imports(source:str, name:str, known:set, package:bool=False) -> set: # dotted names of modules
    "What a module imports of the library, also inside of functions and by `import_module('barcodemae.x')`."
    found, folder = set(), name.split('.') if package else name.split('.')[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[:len(folder) - node.level + 1] if node.level else []
            base = '.'.join([*base, *([node.module] if node.module else [])])
            inside = {f'{base}.{a.name}' for a in node.names}
            found |= inside & known | ({base} if inside - known else set())
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module') and node.args:
            found |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return (found & known) - {name}


def import_graph(): # module -> the modules it imports
    names = modules()
    known = set(names.values())
    return {name: imports(path.read_text(encoding='utf-8'), name, known, path.name == '__init__.py')
            for path, name in names.items()}


def package_of(name:str, graph) -> str:
    "Step of the ladder that a module stands on."
    inside = name.count('.') > 1 or any(n.startswith(f'{name}.') for n in graph)
    return 'cli' if name == 'barcodemae.cli' else name.split('.')[1] if inside else 'ground'


def import_faults(graph) -> list: # of (module, what is wrong)
    "Packages that are not on the ladder; else imports that run upwards, and the first circle of modules."
    step = {name: package_of(name, graph) for name in graph}
    lost = [n for n in graph if step[n] not in LADDER]
    if lost: return [(n, f'its package {step[n]} is not on the ladder (tools/ladder.py)') for n in lost]
    found = [(name, f'imports {used} upwards: {step[name]} comes before {step[used]}') for name in graph
             for used in sorted(graph[name]) if LADDER.index(step[used]) > LADDER.index(step[name])]
    try: graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as e: found.append((e.args[1][0], f'in a circle: {" <- ".join(e.args[1])}'))
    return found

"""The notebooks in the order of reading, with what their first lines and cells say of them.

    python tools/contents.py      the list as Markdown, as nbs/contents.ipynb shows it

Start pages come first, then the packages from the ground up; in a package first the main road (the numbered
notebooks), then the side rooms, each after those that it builds on; experiments are last.
"""
import ast, json, re, sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ladder import LADDER, ROOT  # noqa: E402

START, EXPERIMENTS = 'start', 'experiments' # groups that are no packages
HEADINGS = {START: 'Start here', 'ground': 'Ground: settings, errors, devices, scores', 'cli': 'The command',
            EXPERIMENTS: 'Experiments: tables, figures, measurements'}
for package in (ROOT/'barcodemae').glob('*/__init__.py'): # theirs is what the package says of itself
    about = ast.get_docstring(ast.parse(package.read_text(encoding='utf-8'))) or package.parent.name
    HEADINGS[package.parent.name] = about.split('\n')[0].rstrip('.')


class Page(NamedTuple):
    path: Path    # below nbs/
    group: str    # a package, START or EXPERIMENTS
    title: str    # its first heading
    abstract: str # the quote below it
    module: str   # that it makes, without `barcodemae.`; '' where it makes none
    uses: frozenset # modules that the module imports


def read(path, nbs):
    "The `Page` of a notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    cells = [(c['cell_type'], ''.join(c['source'])) for c in cells]
    text = '\n'.join(source for kind, source in cells if kind == 'markdown')
    code = '\n'.join(source for kind, source in cells if kind == 'code' and source.startswith('#|'))
    found = [re.search(pattern, where, flags=re.M) for pattern, where in (
        (r'^# (.*)', text), (r'^> (.*(?:\n> .*)*)', text), (r'^#\|\s*default_exp\s+(\S+)', code))]
    title, abstract, module = (m[1].strip().replace('\n> ', ' ') if m else '' for m in found)
    inside, relative = module.count('.') > 0, path.relative_to(nbs)
    group = module.split('.')[0] if inside else ('cli' if module == 'cli' else 'ground') if module else START
    if EXPERIMENTS in relative.parts: group = EXPERIMENTS
    exported = '\n'.join(source for kind, source in cells if source.startswith('#| export'))
    uses = frozenset(re.findall(r'(?:from|import) barcodemae\.([\w.]+)', exported)) - {module}
    return Page(relative, group, title or path.stem, abstract, module, uses)


def notebooks(nbs):
    hidden = lambda p: any(part.startswith(('_', '.')) for part in p.relative_to(nbs).parts)
    return [p for p in sorted(nbs.rglob('*.ipynb')) if not hidden(p)]


def _in_order(pages): # of one group: main road first, then each after those that it builds on
    makes = {p.module: p for p in pages if p.module}
    def floor(p): return 1 + max((floor(makes[u]) for u in p.uses if u in makes), default=0)
    road = lambda p: p.path.name[0].isdigit()
    first = lambda p: (p.path.name != 'index.ipynb', not road(p))
    return sorted(pages, key=lambda p: (*first(p), 0 if road(p) else floor(p), p.path))


def pages(nbs=ROOT/'nbs'):
    "All notebooks as `Page`s in the order of reading."
    found = [read(p, Path(nbs)) for p in notebooks(Path(nbs))]
    groups = [START, *LADDER, EXPERIMENTS]
    lost = sorted({p.group for p in found} - set(groups))
    if lost: sys.exit(f'packages that are not on the ladder: {lost}. Fix: add them to tools/ladder.py')
    return [p for group in groups for p in _in_order([p for p in found if p.group == group])]


def markdown(nbs=ROOT/'nbs', here='contents.ipynb'):
    "The list as Markdown, links as seen from nbs/."
    lines, group = [], None
    for p in pages(nbs):
        if p.path.as_posix() in ('index.ipynb', here): continue
        if p.group != group:
            lines += ['', f'## {HEADINGS[p.group]}', '', '| notebook | what it is about |', '|---|---|']
        group, module = p.group, f'<br>`barcodemae.{p.module}`' if p.module else ''
        title, abstract = (text.replace('|', '\\|') for text in (p.title, p.abstract))
        lines.append(f'| [{title}]({p.path.as_posix()}){module} | {abstract} |')
    return '\n'.join(lines).strip() + '\n'


if __name__ == '__main__': print(markdown())

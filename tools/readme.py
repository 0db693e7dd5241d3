"""README.md from nbs/index.ipynb with nbconvert, its pictures in figures/readme/.

With --check: only say whether they are fresh. A number in a sentence comes from a kept result, in a code cell
that gives Markdown; JupyterLab, README and docs show the sentence with the number:

    #| echo: false
    Markdown(f"Genus of unseen species: {accuracy:.1f} % ([measured here](experiments/identify.ipynb)).")
"""
import posixpath, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, README, PICTURES = ROOT/'nbs/index.ipynb', ROOT/'README.md', ROOT/'figures/readme'
NOTE = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n\n'


def from_root(link): # the notebook sees links from nbs/
    return f"]({posixpath.normpath(posixpath.join('nbs', link.group(1)))})"


def relinked(text): return re.sub(r'\]\((?!\w+:|#|/)(.*?)\)', from_root, text)


def prepare(nb):
    "Take out front matter, hidden cells, directives, empty outputs; let links begin at the root."
    cells = []
    for i, cell in enumerate(nb.cells):
        code = cell.cell_type == 'code'
        directives = set(re.findall(r'^#\|\s*(.*?)\s*$', cell.source, flags=re.M)) if code else set()
        front = cell.cell_type == 'raw' or (i == 0 and re.match(r'---\n.*\n---\s*$', cell.source, flags=re.S))
        if front or directives & {'hide', 'include: false'}: continue
        if code:
            cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
            cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
            if directives & {'hide_input', 'echo: false'}: cell.source = ''
            for data in (o.data for o in cell.outputs if 'text/markdown' in o.get('data', {})):
                data['text/markdown'] = relinked(data['text/markdown'])
        else: cell.source = relinked(cell.source)
        if cell.source or cell.get('outputs'): cells.append(cell)
    nb.cells = cells
    nb.metadata.language_info = {'name': 'python'}
    return nb


def build():
    "`(text of README.md, {file name: bytes of a picture})`."
    nb = prepare(nbformat.read(NOTEBOOK, as_version=4))
    text, resources = MarkdownExporter().from_notebook_node(nb)
    pictures = {}
    for n, (name, data) in enumerate(sorted(resources.get('outputs', {}).items()), start=1):
        fresh = f'index_{n}{Path(name).suffix}'
        text = text.replace(f']({name})', f']({PICTURES.relative_to(ROOT)}/{fresh})')
        pictures[fresh] = data
    text = re.sub(r'```python\n+```\n', '', text) # cells whose source is not shown
    text = '\n'.join(line.rstrip() for line in text.splitlines())
    return NOTE + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', pictures


def stale():
    "What of README.md and its pictures is not as the notebook says."
    text, pictures = build()
    wrong = [README.name] if not README.exists() or README.read_text(encoding='utf-8') != text else []
    found = {p.name: p.read_bytes() for p in PICTURES.glob('*')} if PICTURES.exists() else {}
    other = [n for n in found.keys() | pictures if found.get(n) != pictures.get(n)]
    return wrong + sorted(f'{PICTURES.relative_to(ROOT)}/{n}' for n in other)


def write():
    text, pictures = build()
    README.write_text(text, encoding='utf-8')
    for old in PICTURES.glob('*'): old.unlink()
    for name, data in pictures.items():
        PICTURES.mkdir(parents=True, exist_ok=True)
        (PICTURES/name).write_bytes(data)


if __name__ == '__main__':
    if '--check' not in sys.argv: write()
    elif wrong := stale(): sys.exit(f"stale: {', '.join(wrong)}. Fix: make readme")

"""The notebooks of nbs/ as pages in docs/, with a side bar and a search, all of it without a network.

Their kept outputs are shown, nothing is run."""
import ast, base64, html, io, json, os, re, sys, time
from pathlib import Path
import nbformat
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter, filters
from pygments.formatters import HtmlFormatter
from barcodemae.core import InputError, atomic_path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import contents  # noqa: E402

CODE = '(<pre.*?</pre>|<code.*?</code>)|' # comes first in a pattern, and stays as it is
ROOT = Path(__file__).resolve().parent.parent
STYLE = """body { margin: 0; display: flex; font: 16px/1.55 system-ui, sans-serif; color: #222 }
nav { position: sticky; top: 0; flex: 0 0 17em; height: 100vh; overflow-y: auto; box-sizing: border-box }
nav { padding: 1em; background: #f4f5f7; font-size: 14px }
nav a { display: block; padding: 2px 6px; color: #245; text-decoration: none; border-radius: 3px }
nav a:hover, nav a.here { background: #dde5ee }
nav b { display: block; margin: 1em 6px .2em }
nav input { width: 100%; box-sizing: border-box; padding: 5px; margin-bottom: .6em }
#found small { color: #666 }
main { flex: 1; min-width: 0; max-width: 62em; padding: 1em 2.5em }
.highlight, .output_area { overflow-x: auto }
pre, code { font: 13.5px/1.45 ui-monospace, Menlo, Consolas, monospace }
pre { margin: 0 }
img { max-width: 100%; vertical-align: middle }
.input_area { background: #f7f7f4; padding: .5em .8em; border-left: 3px solid #ddd }
.celltag_exported .input_area { border-color: #4a8 }
.output_area { padding: .4em .8em }
.cell { margin: .6em 0 }
.text_cell pre { background: #f7f7f4; padding: .5em .8em; overflow-x: auto }
.anchor-link { visibility: hidden; margin-left: .3em }
h1:hover a, h2:hover a { visibility: visible }
table { border-collapse: collapse; font-size: 14px }
td, th { padding: 3px 8px; border: 0; border-bottom: 1px solid #e4e4e4 }
blockquote { margin-left: 0; color: #567; font-size: 1.1em }
@media (max-width: 50em) {
  body { display: block }
  nav { position: static; height: auto; max-height: 45vh }
  main { padding: 1em }
}
"""
SEARCH = """// Every term must occur; exported names and headings count more than text.
// INDEX is in index.js, ROOT is set by each page.
function rate(s, terms) {
  let total = 0
  for (const w of terms) {
    const names = s.names.map(n => n.toLowerCase()), head = (s.page + ' ' + s.heading).toLowerCase()
    const name = names.includes(w) ? 30 : names.some(n => n.includes(w)) ? 8 : 0
    const hit = name + (head.includes(w) ? 6 : 0) + Math.min(4, s.text.toLowerCase().split(w).length - 1)
    if (hit) total += hit; else return 0
  }
  return total
}
function search(query) {
  const terms = query.toLowerCase().split(/\\s+/).filter(w => w)
  const rated = INDEX.map(s => [rate(s, terms), s]).filter(r => r[0])
  return rated.sort((a, b) => b[0] - a[0]).slice(0, 30).map(r => r[1])
}
function show() {
  const box = document.getElementById('search'), found = document.getElementById('found')
  const query = box.value.trim(), hits = search(query)
  document.getElementById('pages').hidden = !!query
  found.replaceChildren(...hits.map(s => {
    const a = document.createElement('a'), small = document.createElement('small')
    a.href = ROOT + s.url; a.textContent = s.heading + ' '
    small.textContent = (s.heading == s.page ? '' : s.page + ' ') + s.names.join(', ')
    a.append(small)
    return a
  }))
  if (query && !hits.length) found.textContent = 'nothing found' }
if (typeof document != 'undefined') document.getElementById('search').addEventListener('input', show)
"""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>{title}</title>
<link rel="stylesheet" href="{root}style.css"></head>
<body><nav><input id="search" type="search" placeholder="search" aria-label="search all pages">
<div id="found"></div><div id="pages">{links}</div></nav>
<main>{body}</main><script>const ROOT = '{root}'</script>
<script src="{root}index.js"></script><script src="{root}search.js"></script></body></html>
"""


def in_order(nbs):
    "`{path relative to nbs: group}` in the order of reading, index first; see tools/contents.py."
    for path in contents.notebooks(nbs): read(path) # broken ones are named
    found = {p.path: p.group for p in contents.pages(nbs)}
    if Path('index.ipynb') not in found:
        fix = 'give the folder of the notebooks'
        raise InputError('no index.ipynb: the site begins with it', file=nbs, fix=fix)
    return found


BROKEN = (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError, TypeError,
          SyntaxError, UnicodeDecodeError)


def read(path):
    "`(notebook as it is shown, exported names)`."
    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
        return prepare(nb)
    except BROKEN as e:
        raise InputError(f'this is no notebook ({(str(e).strip().splitlines() or [""])[0]})', file=path,
                         fix='open it in Jupyter and save it, or take the last version from git') from None


def prepare(nb):
    "Without hidden cells, directives and warnings; cells that are exported are tagged."
    cells, names = [], set()
    for cell in nb.cells:
        if cell.cell_type == 'code':
            said = set(re.findall(r'^#\|\s*(.*?)\s*$', cell.source, flags=re.M))
            cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
            cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
            if said & {'export', 'exporti', 'exports'}:
                cell.metadata.tags, names = ['exported'], names | defined(cell.source)
            if said & {'hide_input', 'echo: false'}: cell.source = ''
            if said & {'hide', 'include: false'} or not (cell.source or cell.outputs): continue
        if cell.cell_type != 'raw': cells.append(cell)
    return nbformat.NotebookNode(nb, cells=cells), names


def defined(source):
    "Public names that the top level of an exported cell defines."
    tree = ast.parse(source)
    assigned = [t for n in tree.body if isinstance(n, ast.Assign) for a in n.targets for t in ast.walk(a)]
    found = [getattr(n, 'name', '') for n in tree.body] + [t.id for t in assigned if isinstance(t, ast.Name)]
    return {n for n in found if n and not n.startswith('_')}


def formula(match):
    "TeX between dollars as a picture in the page; as it stands where matplotlib does not know a command."
    if match[1]: return match[0]
    picture, tex = io.BytesIO(), html.unescape(match[2])
    try: depth = math_to_image(f'${tex}$', picture, format='svg')
    except ValueError: return match[0]
    data = base64.b64encode(picture.getvalue()).decode()
    return (f'<img alt="{html.escape(tex)}" style="vertical-align: -{depth:.1f}pt" '
            f'src="data:image/svg+xml;base64,{data}">')


def relink(body, page, nbs, out):
    "Links to notebooks lead to their pages, those to other files of the project to the files."
    def link(m):
        url, _, anchor = (m[3] or '').partition('#')
        if m[1] or not url or re.match(r'\w+:', url): return m[0]
        target = Path(os.path.normpath(nbs/page.parent/html.unescape(url)))
        if not target.exists():
            raise InputError(f'a link to {url}, which is not there', file=nbs/page, fix='correct the link')
        new = os.path.relpath(target, out/page.parent)
        if target.suffix == '.ipynb' and target.is_relative_to(nbs):
            new = os.path.relpath(target.with_suffix('.html'), nbs/page.parent)
        return f'{m[2]}="{html.escape(new)}{_}{anchor}"'
    return re.sub(CODE + r'\b(href|src)="([^"]*)"', link, body, flags=re.S)


def plain(text):
    text = re.sub(r'<style.*?</style>|<a class="anchor-link".*?</a>|<[^>]*>', ' ', text, flags=re.S)
    return re.sub(r'\s+', ' ', html.unescape(text)).strip()


def sections(body, page, names):
    "What the search knows of each heading of two levels: its place, its text, the names exported there."
    parts = re.split(r'(<h[12] id="[^"]*">.*?</h[12]>)', body, flags=re.S)
    title = plain(parts[1]) if len(parts) > 1 else page.stem
    for head, text in zip(parts[1::2], parts[2::2]):
        text = plain(re.sub(r'<div class="output_wrapper">.*?(?=<div class="cell|$)', '', text, flags=re.S))
        here = lambda n: re.search(rf'\b(?:(?:def|class) {n}\b|{n}(?:, \w+)* = )', text)
        made = [n for n in sorted(names) if here(n)]
        url = f"{page.with_suffix('.html').as_posix()}#{html.unescape(re.search('id=.(.*?).>', head)[1])}"
        yield dict(page=title, url=url, heading=plain(head), names=made, text=text)


def exporter():
    "From a notebook to the body of a page; cleaning code would take as long again and change nothing."
    clean = lambda text: text if text.startswith('<div class="highlight') else filters.clean_html(text)
    made = HTMLExporter(template_name='basic', exclude_input_prompt=True, exclude_output_prompt=True)
    made.register_filter('clean_html', clean)
    return made


def side_bar(here, groups, titles):
    "Links to all pages, groups with their headings, as seen from the page `here`."
    root, lines, group = '../' * (len(here.parts) - 1), [], None
    for page in groups:
        if groups[page] != group and group is not None:
            lines.append(f"<b>{html.escape(contents.HEADINGS[groups[page]].split(':')[0])}</b>")
        group, at = groups[page], ' class=here' * (page == here)
        link = f'{root}{page.with_suffix(".html").as_posix()}'
        lines.append(f'<a href="{link}"{at}>{html.escape(titles[page])}</a>')
    return '\n'.join(lines)


def build(nbs, out):
    """Write the site; the old one stays until the new one is whole. Number of pages.

    Raises `InputError` for a notebook that is broken or has dead links."""
    nbs, out, make = Path(nbs).resolve(), Path(out).resolve(), exporter()
    groups, bodies, index, titles = in_order(nbs), {}, [], {}
    for page in groups:
        nb, names = read(nbs/page)
        body = re.sub(CODE + r'\$([^$<>\n]+)\$', formula, make.from_notebook_node(nb)[0], flags=re.S)
        bodies[page] = relink(body, page, nbs, out)
        index += (found := list(sections(bodies[page], page, names)))
        titles[page] = found[0]['page'] if found else page.stem
    with atomic_path(out) as temp:
        for page, body in bodies.items():
            (temp/page.parent).mkdir(parents=True, exist_ok=True)
            parts = dict(title=html.escape(titles[page]), root='../' * (len(page.parts) - 1), body=body)
            text = PAGE.format(links=side_bar(page, groups, titles), **parts)
            (temp/page).with_suffix('.html').write_text(text, encoding='utf-8')
        files = {'style.css': STYLE + HtmlFormatter().get_style_defs('.highlight'), 'search.js': SEARCH,
                 'index.js': f'const INDEX = {json.dumps(index, ensure_ascii=False)}\n'}
        for name, text in files.items(): (temp/name).write_text(text, encoding='utf-8')
    return len(bodies)


if __name__ == '__main__':
    start = time.time()
    try: n = build(ROOT/'nbs', ROOT/'docs')
    except InputError as e: sys.exit(str(e))
    print(f'docs: {n} pages in {time.time() - start:.0f} s, begin with docs/index.html')

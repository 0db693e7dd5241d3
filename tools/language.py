"""Words that have a term of the field, found in what a reader sees: `python tools/language.py nbs/data/*.ipynb`.

Read are Markdown cells, comments, docstrings and strings of code; of code between backticks and of identifiers only
the names that were given up. Without files: all of the project. The table is tools/terms.py."""
import io, json, re, sys, tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))
from terms import OLD_DEFINITIONS, OLD_NAMES, TERMS  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SELF = {'terms.py', 'test_language.py'} # quote the table
SHOWN = {'help', 'xlabel', 'ylabel', 'title', 'label', 'fix', 'desc', 'prog', 'description', 'epilog', 'set_title'}
CODE = re.compile(r'```.*?```|`[^`\n]*`|\$[^$\n]*\$|\]\([^)\s]*\)|<[^>\n]*>|https?://\S+', re.S)
RULES = [(re.compile(t.banned.replace(' ', r'\s+'), re.I), re.compile(t.allowed.replace(' ', r'\s+') or '$^', re.I), t)
         for t in TERMS]


class Hit(NamedTuple):
    where: str # file, and cell of a notebook (the first is 0)
    line: int  # of the file or cell, from 1
    word: str
    say: str
    text: str  # around it

    def __str__(self): return f'{self.where} line {self.line}: "{self.word}" -> {self.say}   | {self.text}'


def prose_hits(text:str) -> list: # of (offset, what was found, what to say)
    "Banned words of a text, the first rule of the table that fits each place."
    found, taken = [], []
    for banned, allowed, term in RULES:
        free = [m.span() for m in allowed.finditer(text)]
        for m in banned.finditer(text):
            inside = lambda s: s[0] < m.end() and m.start() < s[1]
            if any(inside(s) for s in free + taken): continue
            taken.append(m.span())
            found.append((m.start(), ' '.join(m[0].split()), term.say))
    return sorted(found)


def blank(text): return re.sub(r'[^\n]', '~', text)


def without_code(text): return CODE.sub(lambda m: blank(m[0]), text)


def markdown_hits(text:str) -> list: # as of prose_hits
    "Banned words of Markdown outside code, links' targets and formulas; given-up names inside of code."
    found = prose_hits(without_code(text))
    for code in re.finditer(r'```.*?```|`[^`\n]*`', text, re.S):
        for m in re.finditer(r'(?<![\w/-])[A-Za-z_]\w*(?![\w/-])', code[0]):
            if m[0] in OLD_NAMES: found.append((code.start() + m.start(), m[0], OLD_NAMES[m[0]]))
    return sorted(found)


def tokens(source):
    "Those of Python; what cannot be read (a magic command) ends them."
    try: yield from tokenize.generate_tokens(io.StringIO(source).readline)
    except (tokenize.TokenError, SyntaxError): return


def joined(found):
    "Tokens with the pieces of an f-string (from Python 3.12) put together to one STRING."
    start = getattr(tokenize, 'FSTRING_START', -1)
    depth, parts, first = 0, [], None
    for t in found:
        depth += t.type == start
        if not depth: yield t; continue
        first, parts = first or t, parts + [t.string if t.type in (start, start + 1, start + 2) else '{x}']
        if t.type == start + 2:
            depth -= 1
            if not depth: yield t._replace(type=tokenize.STRING, string=''.join(parts), start=first.start)
        if not depth: parts, first = [], None


def code_hits(source:str, names_only:bool=False) -> list: # of (line, what was found, what to say)
    "Banned words of comments and strings (those with a space, or given to `help=` and the like), and given-up names."
    found, before = [], ['', '']
    for t in joined(tokens(source)):
        text, line = t.string, t.start[0]
        if t.type == tokenize.NAME:
            old = OLD_NAMES.get(text) or (OLD_DEFINITIONS.get(text) if before[-1] in ('def', 'class') else None)
            if old: found.append((line, text, old))
        comment = t.type == tokenize.COMMENT and not re.match(r'#\s*(\||%%)', text)
        if t.type == tokenize.STRING: text = re.sub(r'\{[^{}]*\}', lambda m: blank(m[0]), text)
        string = t.type == tokenize.STRING and (' ' in text.strip('\'" ') or before[-2] in SHOWN and before[-1] == '=')
        if (comment or string) and not names_only:
            hits = prose_hits(without_code(text))
            found += [(line + text.count('\n', 0, at), word, say) for at, word, say in hits]
        if t.type not in (tokenize.NL, tokenize.COMMENT): before.append(text)
    return found


def check_file(path:Path) -> list: # of Hits
    "All that a notebook, a Markdown file or a module has; of tests only given-up names."
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    raw = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb': cells = [(shown, 'markdown' if path.suffix == '.md' else 'code', raw)]
    else:
        cells = [(f'{shown} cell {i}', c['cell_type'], ''.join(c['source']))
                 for i, c in enumerate(json.loads(raw)['cells'])]
    hits = []
    for where, kind, text in cells:
        lines = text.split('\n')
        if kind == 'code': found = code_hits(text, names_only=path.name.startswith('test_'))
        else: found = [(text.count('\n', 0, at) + 1, word, say) for at, word, say in markdown_hits(text)]
        hits += [Hit(where, n, word, say, around(lines[n - 1], word)) for n, word, say in found]
    return hits


def around(line, word):
    at = max(0, line.lower().find(word.lower().split()[0]))
    return line[max(0, at - 35):at + 45].strip()


def files(): # all that the project checks; exported modules are what their notebooks say
    found = [p for pattern in ('nbs/**/*.ipynb', 'barcodemae/**/*.py', '*.md', 'tools/*.py', 'tests/*.py')
             for p in sorted(ROOT.glob(pattern))]
    skip = lambda p: p.name in SELF or '.ipynb_checkpoints' in p.parts or p.name == '_modidx.py'
    exported = lambda p: p.suffix == '.py' and 'AUTOGENERATED' in p.read_text(encoding='utf-8')[:600]
    return [p for p in found if not skip(p) and not exported(p)]


if __name__ == '__main__':
    hits = [h for p in ([Path(a).resolve() for a in sys.argv[1:]] or files()) for h in check_file(p)]
    for hit in hits: print(hit)
    per_file = Counter(h.where.split(' cell')[0] for h in hits)
    for name, n in per_file.most_common() if len(per_file) > 1 else []: print(f'{n:5d} {name}')
    print(f'{len(hits)} words to change')
    sys.exit(bool(hits))

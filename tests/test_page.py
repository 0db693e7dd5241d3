"""Code that can be read on a page, documented parameter by parameter, importing downwards (tools/page.py)."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
from ladder import LADDER, import_faults, import_graph, imports, modules  # noqa: E402
from page import ROOT, documentation_faults, module_faults, notebook_faults, notebooks  # noqa: E402
from page import parameter_faults, wide_lines  # noqa: E402
from page_docs import class_gaps, function_gaps, patched  # noqa: E402

ids = lambda p: str(p.relative_to(ROOT)) if isinstance(p, Path) else p
fine = lambda faults: '\n'.join(str(f) for f in faults) or None


@pytest.mark.parametrize('path', notebooks(), ids=ids)
def test_notebooks_fit_a_page(path): assert fine(notebook_faults(path)) is None


@pytest.mark.parametrize('path', modules(), ids=ids)
def test_modules_fit_a_page(path): assert fine(module_faults(path)) is None


@pytest.mark.parametrize('name', [name for path, name in modules().items() if path.name != '__init__.py'])
def test_all_that_is_public_is_documented(name): assert fine(documentation_faults(name)) is None


def test_imports_run_down_the_ladder_without_a_circle(): assert fine(import_faults(import_graph())) is None


# What the checks see

def test_wide_lines():
    assert [f.where for f in wide_lines('x\n' + 'x' * 111 + '\n' + 'x' * 110, 'here')] == ['here line 2']
    assert not wide_lines(f"__all__ = [{'x, ' * 40}\n{' ' * 11}{'x, ' * 40}]", 'here')
    link = f"[a](https://{'x' * 100}) and words"
    assert not wide_lines(link, 'here', markdown=True) and wide_lines(link, 'here')
    assert not wide_lines('| ' + 'x' * 120, 'here', markdown=True)


def test_parameters():
    assert not parameter_faults('%time f()\nclass A:\n  def f(self, a, b, c, d, e, *f, **g): pass', 'here')
    assert 'f() has 8' in parameter_faults('def f(a, b, c, d, e, f, *, g, **h): pass', 'here')[0].what


def write_module(folder, monkeypatch, text, name='some_module'):
    (folder/f'{name}.py').write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__(name)


def test_documentation(tmp_path, monkeypatch):
    m = write_module(tmp_path, monkeypatch, '''from dataclasses import dataclass
from fastcore.basics import patch

def shared(a, b, # both of them
          ): "Two."

def own(a, # the first
        b:int=1, # the second
        *args, **kwargs): "Two."

def no_docstring(): pass

class A:
    "A class."
    def __init__(self, a): self.a = a
    def method(self, b, # a number
               ): "Does it."
    @property
    def size(self): "A size."

@patch
def added(self:A, c): "Adds."

@dataclass
class D:
    "Data."
    a: int # one
    b: int = 2
''')
    assert [k for k, _ in function_gaps('shared', m.shared)] == ['docment']
    assert 'no text for a.' in function_gaps('shared', m.shared)[0][1]
    assert not function_gaps('own', m.own)
    assert function_gaps('no_docstring', m.no_docstring)[0][0] == 'docstring'
    assert 'A.__init__(): no text for a.' in str(class_gaps('A', m.A))
    assert not [g for g in class_gaps('A', m.A) if 'method' in g[1] or 'size' in g[1]]
    assert [(n, function_gaps(n, f)[0][0]) for n, f in patched(m)] == [('A.added', 'docment')]
    assert [g[1][:20] for g in class_gaps('D', m.D)] == ['D: no text for b. Fi']


def test_imports_are_found():
    known = {'barcodemae.core', 'barcodemae.data', 'barcodemae.data.read', 'barcodemae.data.store'}
    found = lambda source, **more: imports(source, 'barcodemae.data.store', known, **more)
    assert found('from ..core import x') == {'barcodemae.core'} == found('import barcodemae.core')
    assert found('def f():\n  from . import read') == {'barcodemae.data.read'}
    assert found('from barcodemae.data.read import x') == {'barcodemae.data.read'}
    assert found('from ..data import x') == {'barcodemae.data'}
    assert found('import importlib\nimportlib.import_module("barcodemae.core")') == {'barcodemae.core'}
    assert imports('from .read import x', 'barcodemae.data', known, package=True) == {'barcodemae.data.read'}


def test_upward_imports_and_circles_are_found():
    low, high = (f'barcodemae.{LADDER[i]}.x' for i in (1, 2))
    assert not import_faults({high: {low, 'barcodemae.core'}, low: set(), 'barcodemae.core': set()})
    assert 'upwards' in import_faults({high: set(), low: {high}})[0][1]
    assert 'upwards' in import_faults({'barcodemae.core': {low}, low: set()})[0][1]
    assert 'circle' in import_faults({low: {f'{low}y'}, f'{low}y': {low}})[0][1]
    assert 'not on the ladder' in import_faults({'barcodemae.lost.x': set()})[0][1]

"""For tools/page.py: whether all that is public is documented, parameter by parameter."""
import ast, dataclasses, functools, importlib, inspect

from fastcore.docments import docments


def function_gaps(name:str, f) -> list: # of (kind, what is missing)
    "No docstring, or parameters without a text of their own."
    f = inspect.unwrap(f)
    skip = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    try: wanted = [p.name for p in inspect.signature(f).parameters.values() if p.kind not in skip]
    except (TypeError, ValueError): return []
    if '.' in name and wanted[:1] in (['self'], ['cls']): wanted = wanted[1:]
    documented = name.endswith('__') or inspect.getdoc(f)
    gaps = [] if documented else [('docstring', f'{name}() has no docstring')]
    return gaps + text_gaps(f'{name}()', f, wanted)


def text_gaps(name, f, wanted):
    texts = docments(f, returns=False)
    without = [n for n in wanted if not (texts.get(n) or '').strip()]
    if not without: return []
    return [('docment', f'{name}: no text for {", ".join(without)}. Fix: a line of its own for each, '
                        '`name:type=default, # what it is`')]


def class_gaps(name:str, cls) -> list: # as of function_gaps
    "Of the class, fields of a dataclass, `__init__`, `__call__` and public methods that its module defines."
    documented = cls.__dict__.get('__doc__') and not generated_doc(cls)
    gaps = [] if documented else [('docstring', f'{name} has no docstring')]
    if '__dataclass_fields__' in vars(cls):
        own = [f.name for f in dataclasses.fields(cls) if f.name in cls.__dict__.get('__annotations__', {})]
        gaps += text_gaps(name, cls, [n for n in own if not n.startswith('_')])
    for method, value in vars(cls).items():
        if method.startswith('_') and method not in ('__init__', '__call__'): continue
        f = method_function(value)
        if f is None or f.__module__ != cls.__module__: continue # patched elsewhere, or made by a library
        if method == '__init__' and '__dataclass_fields__' in vars(cls) and not written(f): continue
        gaps += function_gaps(f'{name}.{method}', f)
    return gaps


def written(f): return f.__code__.co_filename != '<string>' # not by dataclass


def generated_doc(cls): # by dataclass or NamedTuple
    return cls.__doc__.startswith(f'{cls.__name__}(') and cls.__doc__.endswith(')')


def method_function(value):
    if isinstance(value, (staticmethod, classmethod)): value = value.__func__
    if isinstance(value, property): value = value.fget
    if isinstance(value, functools.cached_property): value = value.func
    return inspect.unwrap(value) if inspect.isroutine(value) else None


def patched(module) -> list: # of (name, function)
    "Public methods that a module adds to classes with `@patch`."
    found = []
    for f in ast.parse(inspect.getsource(module)).body:
        if not isinstance(f, ast.FunctionDef) or f.name.startswith('_'): continue
        if not any('patch' in ast.unparse(d) for d in f.decorator_list) or not f.args.args: continue
        cls = getattr(module, ast.unparse(f.args.args[0].annotation or f.args.args[0]), None)
        value = method_function(inspect.getattr_static(cls, f.name, None)) if cls else None
        if value is not None: found.append((f'{cls.__name__}.{f.name}', value))
    return found


def module_gaps(name:str) -> list: # as of function_gaps
    "Of every name in the `__all__` of a module that is made there, and of the methods it adds to classes."
    module, gaps = importlib.import_module(name), []
    for public in dict.fromkeys(getattr(module, '__all__', [])):
        value = vars(module).get(public) # None for names that are loaded when they are used
        if getattr(value, '__module__', None) != name: continue
        if inspect.isclass(value): gaps += class_gaps(public, value)
        elif callable(value) and hasattr(value, '__name__'): gaps += function_gaps(public, value)
    return list(dict.fromkeys(gaps + [g for n, f in patched(module) for g in function_gaps(n, f)]))

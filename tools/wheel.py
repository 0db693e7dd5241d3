"""Wheel and sdist by one command, built from a clean copy of the sources, and checked.

    python tools/wheel.py dist

Standard library and setuptools only. What pyproject.toml asks for to build is installed where it is lacking.
"""
import re, shutil, subprocess, sys, tarfile, tempfile, zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ('pyproject.toml', 'README.md', 'LICENSE', 'barcodemae')
BUILD = 'import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))'


def required():
    "What the build needs, as pip has it."
    text = (ROOT/'pyproject.toml').read_text(encoding='utf-8') # Python 3.10 has no tomllib
    return re.findall(r'"(.+?)"', re.search(r'^requires = \[(.+)\]$', text, flags=re.M)[1])


def ready():
    "Is a setuptools there that is new enough?"
    least = int(re.search(r'setuptools>=(\d+)', ' '.join(required()))[1])
    code = f'import setuptools; assert int(setuptools.__version__.split(".")[0]) >= {least}'
    return subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


def expected():
    "Every file of the library, as paths inside of it."
    found = [p for p in (ROOT/'barcodemae').rglob('*') if p.is_file() and '__pycache__' not in p.parts]
    return {p.relative_to(ROOT).as_posix() for p in found}


def contents(path):
    "Names of the files in a wheel, or in an sdist without its first folder."
    if path.suffix == '.whl':
        with zipfile.ZipFile(path) as f: return set(f.namelist())
    with tarfile.open(path) as f: return {name.partition('/')[2] for name in f.getnames()}


def build(out):
    "The two files, built in a folder of their own: what an earlier build left is not taken along."
    if not ready():
        subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', *required()], check=True)
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            source, copy = ROOT/name, Path(folder)/name
            if source.is_dir(): shutil.copytree(source, copy, ignore=shutil.ignore_patterns('__pycache__'))
            else: shutil.copy(source, copy)
        return [run(kind, out, folder) for kind in ('build_wheel', 'build_sdist')]


def run(kind, out, folder):
    "One of the two builds, in a process of its own."
    command = [sys.executable, '-c', BUILD, kind, out]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    path = out/done.stdout.strip().rpartition('\n')[2]
    if done.returncode or not path.is_file():
        said = f'{done.stdout}{done.stderr}\n'
        sys.exit(said + 'wheel: setuptools could not build it. Fix: what it names above')
    return path


def main(argv=None):
    out, = argv or sys.argv[1:] or ['dist']
    for path in build(out):
        lacking = sorted(expected() - contents(path))
        fix = 'Fix: package-data in pyproject.toml'
        if lacking: sys.exit(f"wheel: {path.name} lacks {', '.join(lacking)}. {fix}")
        print(f'wheel: {path} ({path.stat().st_size / 1e6:.1f} MB, {len(contents(path))} files)')


if __name__ == '__main__': main()

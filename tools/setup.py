"""Make .venv and install the library with its notebook tools. Called by make; standard library only.

Each stage says in one line what it does; what pip says goes to .venv/setup.log and, on a terminal, past in one line.
"""
import shutil, subprocess, sys, threading, time, urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV, LOG = ROOT/'.venv', ROOT/'.venv/setup.log'
PY = VENV/'bin/python'
TORCH = 'torch==2.13.0'
CPU_INDEX = 'https://download.pytorch.org/whl/cpu'


def say(text): print(f'setup: {text}', flush=True)


def watch(process, lines, start):
    "Show the newest of `lines` with the seconds gone: redrawn on a terminal, else now and then."
    tty, shown = sys.stdout.isatty(), start
    while process.poll() is None:
        time.sleep(.5)
        newest = next((o.strip() for o in reversed(lines) if not o.startswith('WARNING')), '')
        text = f'{time.time() - start:5.0f} s  {newest}'[:shutil.get_terminal_size().columns - 1]
        if tty: print(f'\r\033[K{text}', end='', flush=True)
        elif time.time() - shown > 30:
            shown = time.time()
            print(text, flush=True)
    if tty: print('\r\033[K', end='', flush=True)


def run(*command, must=True):
    """Run a command, logged and watched; True when it went well.

    Where it must, failure ends here with the last lines of the log."""
    lines, start = [], time.time()
    process = subprocess.Popen([str(c) for c in command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    def read():
        with LOG.open('a') as log:
            for line in process.stdout:
                lines.append(line)
                log.write(line)
                log.flush()
    reader = threading.Thread(target=read)
    reader.start()
    watch(process, lines, start)
    reader.join()
    if process.returncode and must:
        sys.exit(f"{''.join(lines[-20:])}\nsetup: failed: {' '.join(str(c) for c in command)}\n"
                 f'setup: the whole story is in {LOG.relative_to(ROOT)}; fix what it names and run make again')
    return process.returncode == 0


def install(*args, **kwargs): return run(PY, '-m', 'pip', '--disable-pip-version-check', 'install',
                                         '--no-compile', *args, **kwargs)


def python(code): return subprocess.run([PY, '-c', code], capture_output=True, text=True).returncode == 0


def make_venv():
    if sys.version_info < (3, 10):
        sys.exit(f'setup: Python 3.10 or newer is needed, {sys.executable} is {sys.version.split()[0]}. Fix: make PYTHON=python3.12 demo')
    if python_is_there(): return
    say(f'making .venv with Python {sys.version.split()[0]}')
    done = subprocess.run([sys.executable, '-m', 'venv', '--clear', VENV], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{done.stdout}{done.stderr}\nsetup: could not make .venv. Fix: install venv (Debian, Ubuntu: apt install python3-venv)')


def python_is_there(): return PY.exists() and python('import pip')


def has_gpu():
    try: return subprocess.run(['nvidia-smi', '-L'], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError): return False


def reachable(url):
    try: return urllib.request.urlopen(url, timeout=5).status == 200
    except (OSError, ValueError): return False


def install_torch():
    "A CPU build on a machine without a GPU where one can be had: what pip was told to find locally, else PyTorch's own index."
    wanted = TORCH.split('==')[1]
    if python(f"from importlib.metadata import version; assert version('torch').split('+')[0] == '{wanted}'"): return
    if has_gpu():
        say(f'installing {TORCH} (there is a GPU: the CUDA build, some GB)')
        install(TORCH)
        if not python('import torch; assert torch.cuda.is_available()'):
            say('note: this torch does not see the GPU, so the CPU will be used (see https://pytorch.org for the build that fits)')
        return
    say(f'installing {TORCH} (no GPU here: the CPU build where it can be had)')
    # its dependencies come with the library's
    if install('--no-index', '--no-deps', TORCH, must=False): return
    if reachable(f'{CPU_INDEX}/torch/') and install('--index-url', CPU_INDEX, '--no-deps', TORCH,
                                                    must=False): return
    say(f"PyTorch's CPU index cannot be reached: taking {TORCH} from pip's usual index, which may be a CUDA build of some GB")
    install(TORCH)


def main():
    start = time.time()
    make_venv()
    LOG.unlink(missing_ok=True)
    if python('import pip; assert int(pip.__version__.split(".")[0]) < 23'):
        say('bringing pip up to date')
        install('--upgrade', 'pip')
    install_torch()
    say('installing the library and its notebook tools (some minutes on a fresh machine)')
    install('-e', '.[notebooks]')
    say('compiling it')
    # on all cores, where pip would use one
    places = *VENV.glob('lib/python*/site-packages'), 'barcodemae'
    run(PY, '-m', 'compileall', '-q', '-j', '0', *places, must=False)
    (VENV/'.installed').touch()
    say(f'done in {time.time() - start:.0f} seconds')


if __name__ == '__main__': main()

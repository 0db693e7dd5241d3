"The front door and the command line: one source of names, options and defaults; nothing heavy before work."
import inspect, shutil, subprocess, sys
from importlib import import_module
from pathlib import Path

import pytest

import barcodemae
from barcodemae import cli
from barcodemae.cli import COMMANDS, GROUPS, has_main, parser
from barcodemae.core import InputError
from barcodemae.identification.formats import FORMS as FORMATS

HEAVY = {'torch', 'polars', 'numpy', 'transformers', 'sklearn', 'fastcore'}
FUNCTIONS = [name for name in COMMANDS if not has_main(name)]


def imported(code):
    "Heavy modules that a new Python has imported after `code`."
    code += f'\nimport sys; print(*({HEAVY!r} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def function(name):
    module, _, attribute = COMMANDS[name].partition(':')
    return getattr(import_module(f'barcodemae.{module}'), attribute)


def actions(name): # parameter -> argparse's action, of a command
    commands = next(a for a in parser()._actions if a.dest == 'command').choices
    return {a.dest: a for a in commands[name]._actions if a.dest != 'help'}


# the front door

def test_import_loads_nothing_heavy():
    assert imported('import barcodemae') == set()
    assert imported('import barcodemae; dir(barcodemae); barcodemae.__version__') == set()


def test_every_name_of_the_front_door_opens_and_none_is_a_package():
    for name in barcodemae.__all__:
        assert getattr(barcodemae, name) is not None and name in dir(barcodemae)
        assert not (Path(barcodemae.__file__).parent/name).exists(), f'{name} is a package as well'
    assert 9 <= len(barcodemae.__all__) <= 14
    with pytest.raises(AttributeError, match='no attribute'): barcodemae.no_such_name


def test_a_whole_answer_in_three_lines(tmp_path):
    store = barcodemae.load_dataset('demo')
    rows = store.rows('train')[:200]
    named = zip(store.labels('processid', rows), store.labels('genus', rows), store.sequences(rows))
    (tmp_path/'reference.fasta').write_text(''.join(f'>{i};tax=g:{g}\n{b}\n' for i, g, b in named))
    barcodemae.index(tmp_path/'reference.fasta', tmp_path/'reference', quiet=True)
    one = store.sequences(rows[:1])[0]
    table = barcodemae.identify([one, one.lower()], tmp_path/'reference', quiet=True)
    assert table['query'].to_list() == ['0', '1'] and table['identity'].to_list() == [100, 100]
    reference = barcodemae.Reference(tmp_path/'reference')
    same = barcodemae.identify({'a': one}, reference, quiet=True)
    assert same['best_hit'][0] == table['best_hit'][0] and same.columns == table.columns
    with pytest.warns(UserWarning, match='not DNA: 1 skipped') as said:
        vectors = barcodemae.embed([one, 'MKVLLE' * 20, one], quiet=True)
    assert said[0].filename == __file__                                 # it points at the caller
    assert vectors['query'].to_list() == ['0', '2'] and vectors['embedding'].to_numpy().shape[1] > 1
    with pytest.raises(barcodemae.InputError, match='cutoff'): barcodemae.identify([one], reference, cutoff=7)
    with pytest.raises(TypeError, match='cut_off'): barcodemae.identify([one], reference, cut_off=.7)


# the command

@pytest.mark.parametrize('name', FUNCTIONS)
def test_command_and_function_have_the_same_options(name):
    given, empty = actions(name), inspect.Parameter.empty
    asked = inspect.signature(function(name)).parameters
    assert list(given) == list(asked)
    for parameter, action in given.items():
        default = asked[parameter].default
        assert action.required == (default is empty)
        if default is not empty: assert action.default == default
        assert action.help and '`' not in action.help or name == 'finetune', parameter


def test_options_of_a_dataclass_with_a_base(tmp_path, monkeypatch):
    "As dataclasses have it: the base's fields first, with the values of the last definition."
    from barcodemae import options
    (tmp_path/'m.py').write_text('''
@dataclass
class Loop:
    steps: int = 3  # updates
    rate: float = 1 # of learning

@dataclass
class Tuning(Loop):
    rate: float = .1 # peak
    ranks: list = field(default_factory=lambda: ['genus']) # heads

def tune(out, # folder
         *, config:Tuning): pass
''')
    monkeypatch.setattr(options, '_text', lambda module: (tmp_path/f'{module}.py').read_text())
    for cached in (options._tree, options._comments):
        monkeypatch.setattr(options, cached.__name__, cached.__wrapped__)
    found = [(o.name, o.default, o.doc) for o in options.options_of('m', 'tune')[1]]
    assert found[1:] == [('steps', 3, 'updates'), ('rate', .1, 'peak'), ('ranks', ['genus'], 'heads')]
    assert found[0][0] == 'out' and found[0][2] == 'folder'


def test_every_command_has_a_place_and_a_line():
    for name in COMMANDS:
        assert cli.about(name).strip(), name
        if has_main(name): assert callable(import_module(f'barcodemae.{COMMANDS[name]}').main)
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)


def test_help_and_completion_load_nothing_heavy():
    for arguments in (['--help'], ['identify', '--help'], ['train', '--help'], ['--version']):
        ask = f'from barcodemae import cli\ntry: cli.main({arguments!r})\nexcept SystemExit: pass'
        assert imported(ask) == set(), arguments
    assert imported("from barcodemae import cli; cli.main(['completion', 'bash'])") == set()


def test_an_option_before_the_command_is_the_one_that_is_blamed(capsys):
    with pytest.raises(SystemExit) as end: cli.main(['--nope', 'identify', 'x', '--reference', 'y'])
    said = capsys.readouterr().err
    assert end.value.code == 2 and 'unrecognized arguments: --nope\n' in said and '--cutoff' in said
    with pytest.raises(SystemExit) as end: cli.main(['--nope', 'identify', '--help'])
    assert end.value.code == 0 and '--cutoff' in capsys.readouterr().out
    with pytest.raises(SystemExit): cli.main(['--help', 'identify'])
    assert 'doctor' in capsys.readouterr().out


def test_the_overview_reads_no_comments(monkeypatch, capsys):
    "They are what takes longest, and only the options of a command need them."
    monkeypatch.setattr('barcodemae.options._comments', lambda module: 1/0)
    with pytest.raises(SystemExit): cli.main(['--help'])
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)
    with pytest.raises(ZeroDivisionError): cli.main(['identify', '--help'])


def test_help_is_in_groups_and_says_what_comes_first(capsys):
    with pytest.raises(SystemExit) as end: cli.main(['--help'])
    said = capsys.readouterr().out
    assert end.value.code == 0 and 'first index' in said
    places = [said.index(f'{title}:') for title in GROUPS]
    assert places == sorted(places) and all(f'\n  {name}' in said for name in COMMANDS)


def test_arguments_of_modules_are_passed_on(monkeypatch):
    for name in filter(has_main, COMMANDS):
        got = []
        monkeypatch.setattr(import_module(f'barcodemae.{COMMANDS[name]}'), 'main', got.append)
        assert cli.main([name, '--list', 'x']) == 0 and got == [['--list', 'x']]


@pytest.mark.parametrize('words', [[], ['no-such'], ['identify'], ['index', 'x'],
    ['identify', 'q', '--reference', 'r', '--format', 'pdf'], ['embed', 'q', '--threads', '0']])
def test_what_is_not_understood_ends_with_a_usage(words):
    with pytest.raises(SystemExit) as end: cli.main(words)
    assert end.value.code not in (0, None)


@pytest.mark.skipif(not shutil.which('bash'), reason='no bash')
def test_bash_completes(tmp_path):
    def offered(*words):
        words = ' '.join(f"'{w}'" for w in ('barcodemae', *words))
        code = (f'{cli.completion("bash")}\nCOMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n'
                '_barcodemae; echo "${COMPREPLY[@]}"')
        return subprocess.run(['bash', '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert offered('') == list(COMMANDS) and offered('ident') == ['identify']
    assert offered('identify', '--cut') == ['--cutoff'] and '--reference' in offered('identify', '-')
    assert offered('identify', '--format', '') == list(FORMATS)
    assert offered('identify', 'mine') == []                            # bash offers files then
    with pytest.raises(barcodemae.InputError, match='no such shell'): cli.completion('cmd')


def test_numbers_that_may_be_absent_are_numbers_on_the_command_line():
    a = cli.parser().parse_args(['finetune', '-o', 'x', '--start', 'y', '--steps', '5', '--minutes', '.5'])
    assert (a.steps, a.minutes) == (5, .5)


def test_help_does_not_speak_of_errors_and_completion_not_of_places(capsys):
    with pytest.raises(SystemExit): cli.parser().parse_args(['index', '--help'])
    assert 'Raises' not in capsys.readouterr().out
    assert '--query' not in cli._flags()['identify'] and '--reference' in cli._flags()['identify']


@pytest.mark.parametrize('query, said', [([5], 'int'), (7, 'int'), ('ACGT' * 100, 'in a list'), ([None], 'NoneType')])
def test_what_is_no_query(query, said):
    from barcodemae.data.faults import Faults
    from barcodemae.identification.output import read_queries
    with pytest.raises(InputError, match=said): list(read_queries(query, Faults()))


def test_ids_that_look_alike_are_both_answered():
    from barcodemae.data.faults import Faults
    from barcodemae.identification.output import read_queries
    (names, barcodes), = read_queries({1: 'ACGT' * 30, '1': b'TTGT' * 30}, Faults())
    assert names == ['1', '1'] and barcodes == ['ACGT' * 30, 'TTGT' * 30]

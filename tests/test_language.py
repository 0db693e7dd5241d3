"""The field's terms are said, and names that were given up do not come back (tools/language.py)."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent/'tools'))
from language import ROOT, check_file, code_hits, files, markdown_hits, prose_hits  # noqa: E402
from terms import OLD_DEFINITIONS, OLD_NAMES, TERMS  # noqa: E402


@pytest.mark.parametrize('path', files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_terms_of_the_field(path):
    hits = check_file(path)
    assert not hits, f'{len(hits)} to change, see `python tools/language.py {path.relative_to(ROOT)}`:\n' + \
        '\n'.join(str(h) for h in hits)


@pytest.mark.parametrize('term', TERMS, ids=lambda t: t.bad)
def test_table_finds_what_is_banned_and_only_that(term):
    assert term.say in [say for _, _, say in prose_hits(f'Here: {term.bad}.')]
    assert not prose_hits(f'Here: {term.good}.')
    assert not prose_hits(term.say.replace('base, nucleotide;', '')), 'what to say is banned itself'


def test_phrases_across_lines_are_found():
    assert [h[1] for h in prose_hits('they are not\ntold apart')] == ['not told apart']


def test_names_that_were_given_up_are_found():
    for old in OLD_NAMES: assert [h[1] for h in code_hits(f'x = {old}(1)')] == [old]
    for old in OLD_DEFINITIONS:
        assert [h[1] for h in code_hits(f'#| export\ndef {old}(x): pass')] == [old]
        assert not code_hits(f'def {old}(x): pass\n{old} = 1')
    assert not set(OLD_NAMES) & (set(OLD_NAMES.values()) | set(OLD_DEFINITIONS.values()))
    assert markdown_hits('call `quicken(model)`')
    assert not markdown_hits('[a](quicken.ipynb) `use_cpu_kernels`')


@pytest.mark.parametrize('source', [
    "x = 1 # number of words", "'Mean of all letters.'", "f'{x} letters'", "p.add('--n', help='letters')",
    "ax.set(xlabel='letter')", "raise InputError('no such file', mend='make it')", "f'a {x} b' 'of words'",
    "x = '''a\nb of words'''"])
def test_what_a_reader_sees_of_code_is_read(source): assert len(code_hits(source)) == 1


@pytest.mark.parametrize('source', [
    "#| hide", "f'{f\"{letter} b\" for letter in c} d'", "row['letters']",
    "words = f'{letters} bases'", "# %% ../nbs/words.ipynb", "hidden_size = 3"])
def test_what_a_reader_does_not_see_is_not(source): assert not code_hits(source)


def test_line_numbers():
    assert code_hits("x = 1\ny = '''a\nb of words'''")[0][0] == 3

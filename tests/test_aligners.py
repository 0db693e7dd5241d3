"""Guards for barcodemae.bench.aligners: programs that are absent, fail or are killed; what is left behind; the programs themselves where installed."""
import os, shutil, stat, tempfile

import numpy as np, polars as pl, pytest

from barcodemae.bench import aligners as alignment
from barcodemae.bench.aligners import alignment_rows, blast, sintax, versions, vsearch
from barcodemae.core import InputError
from barcodemae.data.store import load_dataset

needs_blast = pytest.mark.skipif(not shutil.which('blastn'),
                                 reason='blastn is not installed (apt-get install ncbi-blast+)')
needs_vsearch = pytest.mark.skipif(not shutil.which('vsearch'),
                                   reason='vsearch is not installed (apt-get install vsearch)')
RNG = np.random.default_rng(0)
REFERENCES = [''.join(b) for b in RNG.choice(list('ACGT'), (20, 300))]


def changed(barcode, n, seed=0):
    letters = np.array(list(barcode))
    at = np.random.default_rng(seed).choice(np.arange(20, len(letters) - 20), n, replace=False)
    letters[at] = [dict(A='C', C='G', G='T', T='A')[b] for b in letters[at]]
    return ''.join(letters)


QUERIES = [changed(REFERENCES[i], 3 * k, k) for k, i in enumerate((7, 0, 19, 3))]


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    "An empty folder in which all temporary folders are made."
    (tmp_path/'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'temporary'))
    return tmp_path/'temporary'


def fake(monkeypatch, tmp_path, **scripts):
    "Programs of these names that do as the scripts say, and none else but sh's own."
    folder = tmp_path/'bin'
    folder.mkdir()
    for name, script in scripts.items():
        (folder/name).write_text(f'#!/bin/sh\ncase "$1" in -version|--version) echo "{name} v9.8.7+"; exit 0;; esac\n{script}\n')
        (folder/name).chmod(stat.S_IRWXU)
    monkeypatch.setenv('PATH', str(folder))


CALLS = dict(blast=lambda q=QUERIES, r=REFERENCES: blast(q, r), vsearch=lambda q=QUERIES,
             r=REFERENCES: vsearch(q, r),
             sintax=lambda q=QUERIES, r=REFERENCES: sintax(q, r,
                                                           dict(genus=[f'G{i}' for i in range(len(r))])))


@pytest.mark.parametrize('method, packages', [('blast', 'ncbi-blast.*bioconda blast'),
    ('vsearch', 'apt-get install vsearch.*bioconda vsearch'), ('sintax', 'vsearch')])
def test_absent_program_is_named_with_its_packages(method, packages, monkeypatch, temporary):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(InputError, match=packages): CALLS[method]()
    assert versions() == dict(blastn=None, vsearch=None) and not list(temporary.iterdir())


@pytest.mark.parametrize('method', CALLS)
def test_failed_and_killed_programs_say_their_last_line_and_leave_nothing(method, monkeypatch, tmp_path,
    temporary):
    failing = 'echo "reading"; echo "Fatal error: no such letter" >&2; echo >&2; exit 3'
    fake(monkeypatch, tmp_path, vsearch=failing, blastn=failing, makeblastdb='exit 0')
    with pytest.raises(InputError, match='status 3: Fatal error: no such letter'): CALLS[method]()
    for name in ('vsearch', 'blastn'): (tmp_path/'bin'/name).write_text((tmp_path/'bin'/name).read_text().replace(failing, 'echo half way; kill -KILL $$'))
    with pytest.raises(InputError, match='SIGKILL: half way'): CALLS[method]()
    assert not list(temporary.iterdir())


def test_an_interrupt_leaves_nothing(monkeypatch, temporary):
    def interrupted(*command, folder=None):
        if folder: raise KeyboardInterrupt
        return 'v1.2.3'
    monkeypatch.setattr(alignment, '_call', interrupted)
    with pytest.raises(KeyboardInterrupt): vsearch(QUERIES, REFERENCES)
    assert not list(temporary.iterdir())


def test_program_that_cannot_start(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, vsearch='')
    (tmp_path/'bin/vsearch').write_bytes(b'\x7fELF broken')
    with pytest.raises(InputError, match='does not start'): vsearch(QUERIES, REFERENCES)


def test_tables_are_read_in_any_order_and_with_queries_missing(monkeypatch, tmp_path):
    "BLAST's best has the highest bit score wherever it stands; VSEARCH's stands first."
    lines = lambda *rows: "printf '%s\\n' " + ' '.join("'" + '\t'.join(map(str, row)) + "'"
                                                       for row in rows) + ' > out.tsv'
    fake(monkeypatch, tmp_path, makeblastdb='exit 0', blastn=lines((3, 4, 90.5, 100), (3, 5, 80.25, 120),
        (3, 6, 99, 120), (1, 0, 100, 7)), vsearch=lines((3, 4, 90.5), (3, 5, 95.0), (0, 2, 70)))
    found = blast(QUERIES, REFERENCES)
    assert found.row.tolist() == [-1, 0, -1, 5] and found.identity[[1, 3]].tolist() == [100,
        80.25] and np.isnan(found.identity[[0, 2]]).all()
    assert found.record['version'] == 'blastn 9.8.7+' and found.record['threads'] == 1 and '-max_target_seqs 1' in found.record['settings']
    found = vsearch(QUERIES, REFERENCES, maxaccepts=3)
    assert found.row.tolist() == [2, -1, -1,
        4] and '--maxaccepts 3' in found.record['settings'] and found.record['seconds'] >= 0
    (tmp_path/'bin/vsearch').write_text((tmp_path/'bin/vsearch').read_text().split('esac')[0]
                                        + 'esac\n: > out.tsv\n')
    assert vsearch(QUERIES, REFERENCES).row.tolist() == [-1] * 4


@pytest.mark.parametrize('method', CALLS)
def test_what_is_no_barcode(method, monkeypatch, tmp_path, temporary):
    fake(monkeypatch, tmp_path, vsearch='exit 0', blastn='exit 0', makeblastdb='exit 0')
    with pytest.raises(InputError, match='barcode 1'): CALLS[method](['ACGT', 'AC\n>7\nGT'])
    for nothing in ([], ['', '']):
        with pytest.raises(InputError, match='among the queries'): CALLS[method](nothing)
        with pytest.raises(InputError, match='among the references'): CALLS[method](QUERIES,
            nothing or ['', ''])
    assert not list(temporary.iterdir())


def test_lineages_are_numbers():
    notes, names = alignment._lineages(dict(family=['F 1', '', 'F,2'], genus=['b;', 'a', '']))
    assert notes.to_list() == [';tax=f:1,g:2;', ';tax=g:1;', None] and names.tolist() == ['', 'a', 'b;']
    with pytest.raises(InputError, match='subfamily'): sintax(QUERIES, REFERENCES, dict(subfamily=['x'] * 20))


@needs_blast
@pytest.mark.parametrize('hits', [1, 5])
def test_blast_finds_what_was_changed(hits, temporary):
    found = blast([*QUERIES, '', 'A' * 50], REFERENCES, hits=hits)
    assert found.row.tolist() == [7, 0, 19, 3, -1, -1]
    assert np.allclose(found.identity[:4], [100 - k for k in range(4)], atol=.05)
    assert not list(temporary.iterdir())


@needs_vsearch
@pytest.mark.parametrize('limits', [dict(), dict(maxaccepts=1, maxrejects=32),
                                    dict(maxaccepts=0, maxrejects=0)])
def test_vsearch_finds_what_was_changed(limits, temporary):
    found = vsearch([*QUERIES, '', ''.join(RNG.choice(list('ACGT'), 300))], REFERENCES, identity=.9, **limits)
    assert found.row.tolist() == [7, 0, 19, 3, -1, -1]
    assert np.allclose(found.identity[:4], [100 - k for k in range(4)], atol=.1)
    assert not list(temporary.iterdir())


@needs_vsearch
def test_sintax_names_and_doubts():
    genus = [f'Genus {i}, "x"; y:(0.5)' for i in range(20)]
    genus[5] = ''
    # as like one genus as the other
    half = REFERENCES[1][:150] + REFERENCES[2][150:]
    first = sintax([*QUERIES, REFERENCES[5], half], REFERENCES, dict(genus=genus, phylum=['P'] * 20))
    assert first.name[:4].tolist() == [genus[i] for i in (7, 0, 19, 3)] and (first.confidence[:4] > .9).all()
    assert not any(name == ''
                   for name in first.name[:4]) and first.confidence[4] < .8 and first.confidence[5] < .9
    again = sintax([*QUERIES, REFERENCES[5], half], REFERENCES, dict(phylum=['P'] * 20, genus=genus))
    assert (again.name == first.name).all() and (again.confidence == first.confidence).all()
    assert first.record['coverage'] == pytest.approx(100 * (first.confidence >= .8).mean(), abs=.01)


@needs_vsearch
@needs_blast
def test_rows_of_the_demo():
    "All three are far above chance on simulated barcodes, and speak of the same queries as k-NN."
    store = load_dataset('demo')
    asked = (('species', 'test'),)
    rows = [row for method in ('blast', 'vsearch', 'sintax')
            for row in alignment_rows(store, method, asked, **(dict(maxaccepts=4, maxrejects=32)
                if method == 'vsearch' else {}))]
    keys = {'method', 'rank', 'reference', 'query', 'n', 'accuracy', 'low', 'high', 'seconds',
            'seconds_per_query', 'threads', 'version', 'settings', 'unmatched'}
    assert all(keys <= row.keys() and row['n'] == 231 and row['accuracy'] > 60 for row in rows)
    assert {'coverage', 'accuracy_covered'} <= rows[2].keys()


def test_faults_of_the_question():
    store = load_dataset('demo')
    with pytest.raises(InputError, match='choose one of blast'): alignment_rows(store, 'needle')
    with pytest.raises(InputError, match='no labelled'): alignment_rows(store, 'vsearch',
        (('genus', 'elsewhere'),))

"""Guards for barcodemae.evaluation.report: kept runs, rows that are missing, the command."""
import json

import pytest

from barcodemae import cli
from barcodemae.core import InputError, write_json
from barcodemae.evaluation.report import accuracy_row, brief_bench, kept_runs, otu_ami, otu_row, table


def results(accuracy, **more):
    row = dict(rank='genus', k=1, query='test_unseen', n=100, low=accuracy - 2, high=accuracy + 2)
    knn = [dict(row, method='model', accuracy=accuracy), dict(row, method='model', k=5, accuracy=1.),
           dict(row, method='untrained', accuracy=30., low=28., high=32.)]
    return dict(dataset='d', simulated=True, variant='mae', seed=0, barcodes_seen=10, seconds_training=60,
                machine=dict(cpu='c', cores=2, more='x'), knn=knn,
                readings=[dict(row, layer=0, accuracy=3.)], **more)


def test_runs_that_are_there_update_those_that_are_kept(tmp_path):
    kept, folders = tmp_path/'kept.json', {name: tmp_path/name for name in 'abc'}
    with pytest.raises(InputError, match='none of the'): kept_runs(kept, folders)
    assert not kept.exists()
    write_json(tmp_path/'b/results.json', results(40.))
    write_json(tmp_path/'a/results.json', results(50.))
    both = kept_runs(kept, folders)
    assert list(both) == ['a', 'b'] and len(both['a']['knn']) == 2
    assert both['a']['cpu'] == 'c' and 'machine' not in both['a']
    (tmp_path/'a/results.json').unlink()
    write_json(tmp_path/'b/results.json', results(45.))
    again = kept_runs(kept, folders)
    assert again['a'] == both['a'] and accuracy_row(again['b'])['accuracy'] == 45
    assert [r['name'] for r in json.loads(kept.read_text())] == ['a', 'b']
    assert list(kept_runs(kept, {'b': tmp_path/'b'})) == ['b']


def test_a_row_that_is_missing():
    with pytest.raises(InputError, match='rank species.*Fix'): accuracy_row(results(40.), rank='species')
    assert '40.0 [38.0, 42.0]' in table(results(40.)) and table(results(40.), 'species').count('\n') == 0


@pytest.mark.parametrize('accuracy, said', [(40., 'is above'), (10., 'is below'), (31., 'overlap')])
def test_command(tmp_path, accuracy, said, capsys):
    write_json(tmp_path/'results.json', results(accuracy))
    assert cli.main(['report', str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert said in out and 'simulated' in out
    assert cli.main(['report', str(tmp_path/'nothing')]) == 1 and 'Fix' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['', '{"knn": [', '[]', '{"knn": 3}', '{"knn": []}'])
def test_a_broken_run_is_named_and_the_rest_makes_the_table(tmp_path, text, capsys):
    for name in 'ab': write_json(tmp_path/name/'results.json', results(40.))
    (tmp_path/'a/results.json').write_text(text)
    assert list(kept_runs(tmp_path/'kept.json', {n: tmp_path/n for n in 'abc'})) == ['b']
    assert f"{tmp_path/'a'}" in (said := capsys.readouterr().out) and 'Fix' in said


def test_otus_are_called_what_the_data_set_calls_them():
    def row(target, number_from='species', reduction='umap', ami=.5):
        return dict(target=target, number_from=number_from, reduction=reduction, ami=ami)
    for name in ('OTU', 'BIN'):
        others = [row(name, 'estimated', ami=.1), row(name, reduction='none', ami=.2), row('species', ami=.3)]
        found = results(40., clustering=[*others, row(name)])
        assert otu_row(found) == row(name) and otu_ami(found) == .5
        assert brief_bench(found)['otus'] == row(name)
    assert otu_ami(results(40.)) is None and otu_row(results(40., clustering=[row('species')])) is None

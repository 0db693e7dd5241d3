"""Guards for barcodemae.bench.cnn: gradients, batches, seeds, saving, wrong weights, and that it learns."""
import json

import numpy as np, pytest, torch
from safetensors.torch import load_file, save_file

from barcodemae.bench.registry import load, systems
from barcodemae.bench.cnn import BarcodeCNN, CnnConfig, CnnEmbedder, load_cnn, train_cnn
from barcodemae.compute import Compute
from barcodemae.core import InputError, read_json
from barcodemae.evaluation.knn import knn_rows
from barcodemae.metrics import score
from barcodemae.data.store import load_dataset, pack

CPU = Compute(torch.device('cpu'), torch.float32)
SMALL = CnnConfig(filters=(8, 8, 8), features=32, epochs=1)
RNG = np.random.default_rng(0)
BARCODES = [''.join(RNG.choice(list('ACGTN'), n)) for n in (660, 658, 500, 200, 3, 1, 640, 660)]


@pytest.fixture(scope='module')
def store(): return load_dataset('demo')


@pytest.fixture(scope='module')
def trained(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp('cnn')/'trained'
    return train_cnn(store, folder, CPU, SMALL), folder


def net(config=CnnConfig(), classes=7, seed=0):
    torch.manual_seed(seed)
    return BarcodeCNN(config, [f'name {i}' for i in range(classes)])


def test_every_parameter_gets_a_gradient():
    model = net().train()
    torch.nn.functional.cross_entropy(model(torch.from_numpy(pack(BARCODES))), torch.arange(8) % 7).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        if not (name.startswith('layers') and name.endswith('0.bias')): assert p.grad.abs().max() > 0, name


def test_gradients_are_those_of_differences():
    model = net(CnnConfig(filters=(4, 4, 4), features=6, dropout=0.)).double().eval()
    bases = torch.from_numpy(pack(BARCODES[:3]))
    onehot = torch.nn.functional.one_hot(bases.long(), 6)[..., :5].mT.double()
    noise = .01 * torch.randn(onehot.shape, dtype=torch.double) # equal bases would tie in the max-pooling
    onehot = (onehot + noise).requires_grad_()
    function = lambda x: model.head(model.dense(model.layers(x).flatten(1)).tanh()).sum()
    function(onehot).backward()
    direction = torch.randn(onehot.shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    small = 1e-7 * direction
    with torch.no_grad(): derivative = (function(onehot + small) - function(onehot - small)) / 2e-7
    assert derivative.item() == pytest.approx((onehot.grad * direction).sum().item(), rel=1e-5)


def test_shapes_and_width():
    model, bases = net().eval(), torch.from_numpy(pack(BARCODES))
    assert model.embed(bases).shape == (8, 500) and model(bases).shape == (8, 7)
    assert CnnEmbedder(model, CPU).encode([]).shape == (0, 500)


def test_alone_equals_in_a_batch():
    embedder = CnnEmbedder(net().train(), CPU)
    together = embedder.encode(BARCODES)
    alone = np.concatenate([embedder.encode([b]) for b in BARCODES])
    assert np.abs(together - alone).max() < 1e-5 and np.isfinite(together).all()
    embedder.batch_size = 3
    assert np.abs(embedder.encode(BARCODES[::-1])[::-1] - together).max() < 1e-5


def test_long_is_cut_and_empty_refused():
    embedder = CnnEmbedder(net(), CPU)
    with pytest.warns(UserWarning, match='cut to 660'): longer = embedder.encode([BARCODES[0] + 'ACGT'])
    assert np.allclose(longer, embedder.encode(BARCODES[:1]))
    with pytest.raises(InputError, match='barcode 1'): embedder.encode(['ACGT', ''])


def test_the_seed_decides(store, trained):
    model, _ = trained
    before = torch.random.get_rng_state()
    same, other = (train_cnn(store, compute=CPU, config=SMALL, seed=seed) for seed in (0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    ours = model.state_dict()
    assert all(torch.equal(ours[n], t) for n, t in same.state_dict().items())
    assert not torch.equal(ours['head.weight'], other.state_dict()['head.weight'])


def test_saved_and_loaded(store, trained):
    model, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == ['config.json', 'model.safetensors']
    assert not list(folder.parent.glob('.tmp-*'))
    assert systems()['cnn'].supervised
    for source in (folder, folder/'model.safetensors'):
        again = load('cnn', source, CPU)
        assert np.array_equal(again.encode(BARCODES), CnnEmbedder(model, CPU).encode(BARCODES))
        assert again.model.config == SMALL
        assert (again.model.classes == model.classes).all() and not again.model.training
    assert read_json(folder/'config.json')['dataset'] == store.name


def test_a_folder_is_not_overwritten(store, trained):
    before = (trained[1]/'model.safetensors').read_bytes()
    with pytest.raises(InputError, match='there already'): train_cnn(store, trained[1], CPU, SMALL)
    assert (trained[1]/'model.safetensors').read_bytes() == before


def test_wrong_weights_are_refused(trained, tmp_path):
    weights, config = load_file(trained[1]/'model.safetensors'), read_json(trained[1]/'config.json')
    def written(weights, config):
        save_file(weights, tmp_path/'model.safetensors')
        (tmp_path/'config.json').write_text(json.dumps(config))
        return tmp_path
    def refused(message, weights, config):
        with pytest.raises(InputError, match=message): load_cnn(written(weights, config))
    refused('missing head.bias', {n: t for n, t in weights.items() if n != 'head.bias'}, config)
    refused('unknown extra', weights | dict(extra=torch.ones(1)), config)
    refused('head.weight is', weights, config | dict(classes=config['classes'][:-1]))
    for changes in (dict(colour='red'), dict(filters=3)):
        refused('no settings of a CNN', weights, config | dict(settings=config['settings'] | changes))
    refused('no settings of a CNN', weights, {})
    (tmp_path/'config.json').unlink()
    with pytest.raises(InputError, match='not there'): load_cnn(tmp_path)
    with pytest.raises(InputError, match='train_cnn'): load('cnn', compute=CPU)
    with pytest.raises(InputError, match='no such folder'): load('cnn', tmp_path/'absent', CPU)


def test_one_name_cannot_be_told_apart(store, monkeypatch):
    monkeypatch.setattr(type(store), 'labels', lambda self, rank, rows=None: np.array(['one'] * len(rows)))
    with pytest.raises(InputError, match='1 genus names'): train_cnn(store, compute=CPU, rank='genus')


def test_it_learns(store):
    "A few steps on simulated barcodes: names far above chance (1 of 62 genera), vectors for unseen species."
    embedder = CnnEmbedder(train_cnn(store, compute=CPU, rank='genus', epochs=4), CPU)
    test = store.rows('test')
    name, p = embedder.predict(store.sequences(test))
    assert score(store.labels('genus', test), name)['accuracy'] > 30 and ((0 < p) & (p <= 1)).all()
    def vectors(rows): return embedder.encode(store.sequences(rows))
    assert knn_rows('cnn', vectors, store, 'genus', ('test_unseen',))[0]['accuracy'] > 30


def test_a_late_start_is_made_good(store, trained):
    "A barcode without its first bases lies on the same sites of the gene."
    barcode = store.sequences(store.rows('test')[:1])[0]
    whole, late = trained[0].place(torch.from_numpy(pack([barcode, barcode[7:]])))
    there = late != 5
    assert there.sum() > len(barcode) - 20 and torch.equal(whole[there], late[there])
    assert 'reference' in read_json(trained[1]/'config.json') and len(load_cnn(trained[1]).reference) == 660
    assert train_cnn(store, compute=CPU, config=SMALL, aligned=False).reference is None

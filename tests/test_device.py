"""What would go wrong on a GPU, found without one: tensors of device `meta` have shapes and no values.

A mode watches each operation. It refuses tensors of two devices in one operation, kernels that only a CPU has
and, inside a training step, whatever waits for a value (`.item()`, a copy to the CPU, a mask as an index)."""
import contextlib, sys, threading

import numpy as np, pytest, torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from barcodemae.compute import Compute
from barcodemae.training.finetune import FinetuneConfig, Finetuning
from barcodemae.evaluation.knn import GenusMonitor, untrained_encoder
from barcodemae.embedding.embed import _fetched, embed
from barcodemae.embedding.neighbours import nearest
from barcodemae.model.cpu_layers import ByteDropout, FusedLinear
from barcodemae.training.config import make_config, model_config
from barcodemae.identification.model import Model, save_model
from barcodemae.data.store import load_dataset
from barcodemae.training.pretrain import Pretraining, masked_accuracy
from barcodemae.training.trainer import Trainer

META = Compute(torch.device('meta'), torch.float32)
VARIANTS = ('mae', 'mae_with_mask', 'encoder_only', 'hyena', 'mamba', 'mamba2', 'caduceus')
WAITS = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select', 'aten::_unique2', 'aten::equal'}


class OnDevice(TorchDispatchMode):
    "Refuses what a GPU cannot do and, unless it `may_wait`, waits for it; counts copies to the CPU."
    def __init__(self, may_wait): super().__init__(); self.may_wait, self.fetched = may_wait, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        places = {t.device.type for t in tensors if t.ndim or t.device.type != 'cpu'} # numbers may be
        if 'meta' not in places: return func(*args, **kwargs)
        if name in ('aten::_to_copy', 'aten::copy_'): return self.copy(func, name, args, kwargs)
        if len(places) > 1: raise RuntimeError(f'{name}: tensors on {" and on ".join(sorted(places))}')
        if 'mkldnn' in name: raise RuntimeError(f'{name}: only a CPU has this kernel')
        by_mask = name.startswith('aten::index') and any(t.dtype == torch.bool for t in tensors[1:])
        return self.wait(func, name, args, kwargs) if by_mask or name in WAITS else func(*args, **kwargs)

    def wait(self, func, name, args, kwargs):
        if not self.may_wait: raise RuntimeError(f'{name}: the CPU waits for the device')
        return 0. if name == 'aten::_local_scalar_dense' else func(*args, **kwargs)

    def copy(self, func, name, args, kwargs):
        target = args[0].device if name == 'aten::copy_' else kwargs.get('device') or args[0].device
        if target.type != 'cpu': return func(*args, **kwargs)
        if not self.may_wait: raise RuntimeError(f'{name}: the CPU waits for a copy')
        self.fetched += 1
        if name == 'aten::copy_': return args[0]
        return torch.ones(args[0].shape, dtype=kwargs.get('dtype') or args[0].dtype)


@pytest.fixture(autouse=True)
def like_a_gpu(monkeypatch):
    "`meta` has no autocast and no fused AdamW."
    enabled, autocast = torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda *d: False if d == ('meta',) else enabled(*d))
    def no_autocast(d, *a, **k): return contextlib.nullcontext() if d == 'meta' else autocast(d, *a, **k)
    monkeypatch.setattr(torch, 'autocast', no_autocast)
    adam, check = sys.modules['torch.optim.adam'], '_device_dtype_check_for_fused'
    monkeypatch.setattr(adam, check, lambda *a, **k: None, raising=False)


@pytest.fixture(scope='module')
def store(): return load_dataset('demo')


def config(**changes):
    return make_config('demo', dropout=.1, random_offset=True, aligned=True, steps=10, **changes)


# the work

@pytest.mark.parametrize('optimizer', ['adamw', 'muon'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_steps_and_validation(store, variant, optimizer):
    trainer = Trainer(Pretraining(config(variant=variant, optimizer=optimizer), store), META, 10)
    assert {p.device.type for p in (*trainer.model.parameters(), trainer.objective.bases)} == {'meta'}
    with OnDevice(may_wait=False):
        trainer.step(0)
        masked_accuracy(trainer.step(1, with_metrics=True))
    reached = {p for optimizer in trainer.optimizers for p in optimizer.state} # made for a gradient
    missed = [n for n, p in trainer.model.named_parameters() if p not in reached]
    assert not missed, 'weights without a gradient or an optimiser'
    with OnDevice(may_wait=True) as on: trainer.objective.validate(trainer)
    assert on.fetched == 0


def test_layers_are_graphs_and_each_step_tells_its_beginning(store, monkeypatch):
    "In the main thread; what a step does between the layers is compiled without them."
    modes, marks, cuda = {}, [], Compute(torch.device('cuda'), torch.float32)
    def compile_(work, mode=None, **how):
        modes[work.__qualname__.rpartition('.')[0] or work.__name__] = mode
        return work
    monkeypatch.setattr(torch, 'compile', compile_)
    monkeypatch.setattr(torch.compiler, 'cudagraph_mark_step_begin', lambda: marks.append(1))
    make = Pretraining.make_model
    monkeypatch.setattr(Pretraining, 'make_model', lambda self, compute: make(self, cuda))
    trainer = Trainer(Pretraining(config(), store), Compute(torch.device('cpu'), torch.float32), 10)
    for i in range(3): trainer.step(i)
    assert len(marks) == 3 and modes.pop('BertLayer') == 'reduce-overhead' and set(modes.values()) == {None}
    objective = Pretraining(config(), store)
    thread = threading.Thread(target=make, args=(objective, cuda))
    thread.start(), thread.join()
    assert not objective.graphs


def test_a_mask_is_not_inspected(store):
    encoder = untrained_encoder(model_config(config())).to('meta')
    ids = torch.zeros(2, 9, dtype=torch.int64, device='meta')
    with torch.no_grad(), OnDevice(may_wait=False): encoder(ids, attention_mask=ids.bool())


@pytest.mark.parametrize('variant', VARIANTS)
def test_embedding_and_neighbours(store, variant):
    encoder = untrained_encoder(model_config(config(variant=variant)))
    with OnDevice(may_wait=True) as on:
        assert embed(encoder, store.bases[:300], batch_size=100, compute=META).shape == (300, 64)
        assert on.fetched <= 2 * 3, 'copies a batch'
        rows, _ = nearest(np.ones((50, 8)), np.ones((70, 8)), 3, device='meta')
    assert rows.shape == (50, 3)


@pytest.mark.parametrize('n', range(4))
def test_vectors_of_a_gpu_are_read_once_they_are_copied(n, monkeypatch):
    "And the next batch is begun before the last one is waited for; each keeps its rows."
    gpu, begun, there, found = torch.device('cuda:1'), [], [], []
    class Event:
        def record(self, stream):
            assert stream == ('stream of', gpu)
            self.batch = begun[-1]
        def synchronize(self): there.append(self.batch)
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: ('stream of', device))
    def computed():
        for i in range(n):
            begun.append(i)
            yield [i], torch.full((1, 2), float(i))
    for rows, vectors in _fetched(computed(), gpu):
        assert there == [*range(rows[0] + 1)] and begun[-1] == min(rows[0] + 1, n - 1)
        found.append((rows, vectors.tolist()))
    assert found == [([i], [[i, i]]) for i in range(n)]


@pytest.mark.filterwarnings('ignore::RuntimeWarning') # all vectors are the same
def test_probe(store):
    probe = GenusMonitor(store, META, references=100, whiten=50)
    encoder = untrained_encoder(model_config(config()))
    with OnDevice(may_wait=True): assert set(probe(encoder)) == {'genus_1nn', 'genus_1nn_whitened'}


def test_vectors_of_identification(store, tmp_path, monkeypatch):
    encoder = untrained_encoder(model_config(config(), reference=store.sequences([0])[0]))
    save_model(tmp_path/'model', encoder, np.array(store.bases[:200]))
    model = Model(tmp_path/'model', META)
    with OnDevice(may_wait=True): assert model.vectors(np.array(store.bases[:50])).shape == (50, model.width)


def test_fine_tuning(store, tmp_path):
    encoder = untrained_encoder(model_config(config(), reference=store.sequences([0])[0]))
    encoder.save_pretrained(tmp_path/'best')
    for masked in (0., .5):
        objective = Finetuning(FinetuneConfig(start=str(tmp_path), batch_size=16, masked=masked), store)
        trainer = Trainer(objective, META, 10)
        with OnDevice(may_wait=True):
            trainer.step(0)
            assert set(objective.predict(trainer, objective.labelled[:20])) == set(objective.names)


# the mode itself: faults planted, one of each kind

class Faulty(torch.nn.Linear):
    def forward(self, x): return self.fault(super().forward(x))


FAULTS = dict(
    item=lambda x: x * x.sum().item(),
    numpy=lambda x: x * float(x.detach().numpy().sum()),
    fetched=lambda x: x * x.cpu().sum().item(),
    branch=lambda x: x if x.sum() > 0 else -x,
    mask=lambda x: x[x > 0].sum() + x,
    two_devices=lambda x: x + torch.ones(x.shape),
    row_of_cpu=lambda x: x[torch.tensor([0, 0])].sum() + x,
    generator=lambda x: x + torch.rand(x.shape, generator=torch.Generator()),
    byte_dropout=lambda x: ByteDropout(.5).train()(x),
)


@pytest.mark.parametrize('fault', FAULTS)
def test_planted_faults_are_found(store, fault):
    trainer = Trainer(Pretraining(config(), store), META, 10)
    dense = trainer.model.encoder.encoder.layer[0].output.dense
    dense.__class__, dense.fault = Faulty, FAULTS[fault]
    told = 'waits for|tensors on|only a CPU|convert meta device'
    with pytest.raises((RuntimeError, TypeError), match=told), OnDevice(may_wait=False): trainer.step(0)


def test_a_look_at_the_mask_is_found(store, monkeypatch):
    "transformers asks whether a mask of two dimensions is all ones, and waits for the answer."
    monkeypatch.setattr('barcodemae.model.mae.attended', lambda bert, mask: mask)
    trainer = Trainer(Pretraining(config(), store), META, 10)
    with pytest.raises(RuntimeError, match='waits for'), OnDevice(may_wait=False): trainer.step(0)


def test_kernels_of_the_cpu_are_found():
    layer, x = FusedLinear(4, 4, device='meta'), torch.ones(2, 4, device='meta')
    with pytest.raises(RuntimeError, match='only a CPU'), OnDevice(may_wait=True):
        torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, 'none', [], '')

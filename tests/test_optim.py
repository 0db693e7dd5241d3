"""Guards for barcodemae.training.optim: Muon is torch's, flushing has no effect, who gets which optimiser."""
import pytest, torch
from torch import nn

from barcodemae.model.mae import BarcodeMAEForPreTraining
from barcodemae.training.optim import Muon, flush_denormals, make_optimizers, orthogonalise
from barcodemae.training.config import make_config, model_config


@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
@pytest.mark.parametrize('shape', [(8, 8), (8, 32), (32, 8)])
def test_muon_is_torchs(shape, dtype):
    def walk(make):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
        start, optimizer = [w.detach().clone() for w in weights], make(weights)
        for _ in range(5):
            for w in weights: w.grad = torch.randn(shape)
            optimizer.step()
        return torch.stack([w.detach() - s for w, s in zip(weights, start)])
    ours = walk(lambda w: Muon(w, lr=.01, weight_decay=.1, dtype=dtype))
    torchs = walk(lambda w: torch.optim.Muon(w, lr=.01, weight_decay=.1, adjust_lr_fn='match_rms_adamw'))
    assert (ours - torchs).norm() < .03 * torchs.norm()                 # torch's computes in bfloat16


@pytest.mark.parametrize('shape', [(16, 16), (4, 32), (32, 4)])
def test_orthogonal_updates(shape):
    updates = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    lengths = torch.linalg.svdvals(orthogonalise(updates))
    assert .3 < lengths.min() and lengths.max() < 1.3
    assert orthogonalise(torch.zeros(1, *shape)).abs().max() == 0


def test_muon_is_for_matrices():
    with pytest.raises(ValueError, match='matrices'): Muon([nn.Parameter(torch.zeros(3))], lr=.1)


def test_flushed_denormals_change_nothing():
    def walk(drop):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(20, 4))
        o = torch.optim.AdamW([p], lr=1e-2, fused=True)
        for i in range(900):
            p.grad = torch.randn_like(p) * (i < 5 or i > 850) # a k-mer that goes away and comes back
            o.step()
            if drop and i % 100 == 0: flush_denormals(o)
            if i == 801: left = o.state[p]['exp_avg'].abs().max().item()
        return p.detach(), left
    (kept, left), (dropped, none) = walk(False), walk(True)
    assert 0 < left < 1e-30 and none == 0 and torch.equal(kept, dropped)


def test_every_parameter_has_one_optimiser():
    model = BarcodeMAEForPreTraining(model_config(make_config('demo')))
    optimizers = make_optimizers(model, 'muon', 1e-3, 0.)
    groups = [[p for g in o.param_groups for p in g['params']] for o in optimizers]
    assert sorted(map(id, sum(groups, []))) == sorted(map(id, model.parameters()))
    assert {tuple(p.shape) for p in groups[1]} == {(64, 64), (64, 256), (256, 64)}
    assert len(make_optimizers(model, 'adamw', 1e-3, 0.)) == 1

"""Guards for barcodemae.model.mamba: scans against a plain loop, strands, hidden states, gradients."""
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from barcodemae.model.hyena import next_base_loss
from barcodemae.model.mamba import COMPLEMENT, BarcodeMamba, Caduceus
from barcodemae.model.mamba import head_scan, initial_steps, join_strands, selective_scan

ROWS, STATES, PACE = st.integers(1, 3), st.integers(1, 16), st.floats(-6, 3)


def plain_scan(x, dt, A, B, C):
    h, ys = x.new_zeros(len(x), *A.shape), []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, 1)


def close(scan, plain, inputs, least=1e-4):
    "The same values and gradients, these to `least`."
    inputs = [t.requires_grad_() for t in inputs]
    ours, expected = scan(*inputs), plain(*inputs)
    weight = torch.randn_like(expected)
    gradients = lambda y: torch.autograd.grad((y * weight).sum(), inputs, retain_graph=True)
    for a, b in zip(gradients(ours), gradients(expected)):
        assert (a - b).abs().max() < least * max(1, b.abs().max())
    with torch.no_grad(): without_gradients = scan(*inputs)
    assert (ours - expected).abs().max() < 2e-5 * max(1, expected.abs().max())
    assert torch.allclose(without_gradients, ours, atol=1e-5)


def inputs(rows, T, channels, rates, N, pace):
    "x, dt, A, B and C; `channels` is a tuple for heads."
    x, dt = torch.randn(rows, T, *channels), F.softplus(torch.randn(rows, T, channels[0]) + pace)
    return [x, dt, -torch.rand(*rates) * 16, torch.randn(rows, T, N), torch.randn(rows, T, N)]


@settings(max_examples=12, deadline=None)
@given(ROWS, st.integers(1, 90), st.sampled_from([1, 5, 32]), STATES, PACE)
def test_selective_scan_is_the_loop(rows, T, D, N, pace):
    torch.manual_seed(T)
    close(selective_scan, plain_scan, inputs(rows, T, (D,), (D, N), N, pace))


def test_selective_scan_of_more_rows_than_are_scanned_at_a_time():
    torch.manual_seed(0)
    close(selective_scan, plain_scan, inputs(70, 11, (32,), (32, 16), 16, 0))


@settings(max_examples=12, deadline=None)
@given(ROWS, st.integers(1, 150), st.integers(1, 4), STATES, PACE)
def test_head_scan_is_the_loop(rows, T, H, N, pace):
    torch.manual_seed(T)
    each = lambda t: t.repeat_interleave(6, -1)
    def plain(x, dt, A, B, C):
        return plain_scan(x.flatten(2), each(dt), each(A)[:, None].repeat(1, N), B, C).unflatten(2, (H, 6))
    close(head_scan, plain, inputs(rows, T, (H, 6), (H,), N, pace), 1e-3) # sums of steps reach thousands


@torch.no_grad()
def test_the_other_strand_gives_the_same_reversed():
    torch.manual_seed(0)
    model, ids = Caduceus(32, 3).eval(), torch.randint(7, 12, (3, 70))
    here, there = model(ids), model(COMPLEMENT[ids].flip(1))
    assert (there.flip(1, 2) - here).abs().max() < 1e-6
    assert (model.logits(there).flip(1)[..., COMPLEMENT] - model.logits(here)).abs().max() < 1e-6
    shifted = model(F.pad(ids, (0, 1), value=1)), model(F.pad(COMPLEMENT[ids].flip(1), (0, 1), value=1))
    assert (shifted[0][:, :-1] - shifted[1][:, :-1].flip(1, 2)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize('swap', [True, False])
def test_hidden_states_end_with_those_of_forward(swap):
    torch.manual_seed(0)
    model, ids = Caduceus(16, 3, swap).eval(), torch.randint(7, 12, (2, 30))
    states, there = model.states(ids), model.states(COMPLEMENT[ids].flip(1))
    assert [s.shape for s in states] == [(2, 30, 32)] * 4
    strands = model.embeddings(ids)
    for state, layer in zip(states, model.layers):
        assert torch.equal(state, join_strands(strands))
        strands = layer(strands)
    for last in (model(ids), join_strands(model.norm_f(strands))): assert torch.equal(states[-1], last)
    for a, b in zip(states, there): assert (b.flip(1, 2) - a).abs().max() < 1e-6


def test_gradients_flow_to_every_parameter():
    torch.manual_seed(0)
    caduceus, mamba, ids = Caduceus(16, 2), BarcodeMamba(16, heads=2, states=8), torch.randint(7, 12, (2, 30))
    F.cross_entropy(caduceus.logits(caduceus(ids)).flatten(0, 1), ids.flatten()).backward()
    next_base_loss(mamba, ids - 4).backward()
    for model in (caduceus, mamba):
        for name, p in model.named_parameters(): assert p.grad.abs().sum() > 0, name


def test_initial_steps_are_where_they_should_be():
    steps = F.softplus(initial_steps(1000))
    assert .00099 < steps.min() < .0015 and .07 < steps.max() < .101
    assert steps.median() == pytest.approx(.01, rel=.3)

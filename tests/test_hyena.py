"""Guards for barcodemae.model.hyena: the long convolution against plain sums, hidden states, gradients."""
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from barcodemae.core import InputError
from barcodemae.model.hyena import HyenaDNA, base_ids, long_convolution, next_base_loss, short_convolution


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60))
def test_a_long_convolution_is_a_sum_over_bases_before(T, tail):
    generator = torch.Generator().manual_seed(T)
    x, taps = torch.randn(2, 3, T, generator=generator), torch.randn(3, T, generator=generator)
    direct = torch.stack([(x[..., :t + 1] * taps[:, :t + 1].flip(-1)).sum(-1) for t in range(T)], -1)
    assert torch.allclose(long_convolution(x, taps), direct, atol=1e-4)
    longer = torch.cat([x, torch.randn(2, 3, tail, generator=generator)], -1)
    more_taps = torch.cat([taps, torch.randn(3, tail, generator=generator)], -1)
    assert torch.allclose(long_convolution(longer, more_taps)[..., :T], direct, atol=1e-4)


@pytest.mark.parametrize('taps', [1, 3, 4])
def test_a_short_convolution_is_that_of_torch(taps):
    conv, x = torch.nn.Conv1d(6, 6, taps, groups=6), torch.randn(2, 9, 6)
    expected = F.conv1d(F.pad(x.mT, (taps - 1, 0)), conv.weight, conv.bias, groups=6).mT
    assert torch.allclose(short_convolution(conv, x), expected, atol=1e-6)


def test_characters_outside_the_vocabulary_are_unknown():
    assert base_ids('ACGTN') == [7, 8, 9, 10, 11, 1]
    assert base_ids('acgtRYK-U ') == [6] * 10 + [1] and base_ids('') == []


@torch.no_grad()
def test_hidden_states_end_with_those_of_forward():
    torch.manual_seed(0)
    model, ids = HyenaDNA(16, 3, length=40, filter_width=8).eval(), torch.randint(7, 12, (2, 30))
    states = model.states(ids)
    assert [s.shape for s in states] == [(2, 30, 16)] * 4
    assert torch.equal(states[0], model.embeddings['word_embeddings'](ids))
    assert torch.equal(states[2], model.layers[1](states[1]))
    for last in (model(ids), model.ln_f(model.layers[2](states[2]))): assert torch.equal(states[-1], last)


@pytest.mark.parametrize('ask', [HyenaDNA.__call__, HyenaDNA.states])
def test_more_tokens_than_the_model_takes(ask):
    with pytest.raises(InputError, match='1027 tokens'): ask(HyenaDNA(8, 1), torch.full((1, 1027), 7))


def test_gradients_flow_to_every_parameter():
    torch.manual_seed(0)
    model = HyenaDNA(16, length=40, filter_width=8)
    next_base_loss(model, torch.randint(7, 12, (2, 30))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

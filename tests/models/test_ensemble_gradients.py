"""Gradients of an ensemble by compiled loops are those of autograd, in its fits and in its frozen steps."""

import copy

import pytest
import torch
from torch import Tensor

from world_env.models.layers import frozen_mlp, fused_activation
from world_env.rng import CounterRNG
from world_env.twin.twin import Twin


def gradients(model: torch.nn.Module, twin: Twin, rows: int) -> list[Tensor]:
    """Results of three steps, and their gradients with respect to the first observation and the action."""
    assert twin.states is not None
    context = twin.states.select(torch.arange(rows) % len(twin.states))
    state = model.encode(context.to("cpu", torch.float32), rng=CounterRNG.from_seed(0, rows))
    size = len(torch.as_tensor(twin.codec.action_scale[0]).reshape(-1))
    generator = torch.Generator().manual_seed(1)
    # Large, so that changes and rewards are clipped in some rows.
    first = (3.0 * state["observation"]).clone().requires_grad_()
    action = (torch.rand(rows, size, generator=generator) * 2 - 1).requires_grad_()
    state, rng, total = {**state, "observation": first}, CounterRNG.from_seed(3, rows), 0.0
    for _ in range(3):
        state, found = model.step(state, action, rng=rng)
        results = [state["observation"], found.reward, found.terminal_reward, found.terminated]
        for result in results:
            total = total + (result * torch.randn(result.shape, generator=generator)).sum()
    assert isinstance(total, Tensor)
    return [*results, *torch.autograd.grad(total, (first, action))]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["half-cheetah", "pendulum"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_frozen_step_and_its_gradients_are_those_of_the_model(
    name: str, rows: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = Twin.load(name)
    plain = copy.deepcopy(twin.model).requires_grad_(False)
    if compiled:
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(frozen_mlp, "compiled_gradients", lambda: None)
        monkeypatch.setattr("world_env.models.ensemble.model.compiled_gradients", lambda: None)
    frozen = twin.model.frozen()
    assert (getattr(frozen, "_step_once", None) is not None) == compiled
    for mine, other in zip(
        gradients(frozen, twin, rows), gradients(plain, twin, rows), strict=True
    ):
        torch.testing.assert_close(
            mine, other, rtol=1e-4, atol=1e-5 * float(other.detach().abs().max())
        )


def test_compiled_layers_have_the_gradients_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(0)
    product, weight = (torch.randn(3, 11, 24, generator=generator) for _ in range(2))
    others = [torch.randn(3, 1, 24, generator=generator).requires_grad_() for _ in range(3)]

    def found() -> list[Tensor]:
        inputs = product.clone().requires_grad_()
        hidden = fused_activation.activated(inputs * 1.0, *others)
        return [hidden, *torch.autograd.grad((hidden * weight).sum(), (inputs, *others))]

    compiled = found()
    monkeypatch.setattr(fused_activation, "compiled_gradients", lambda: None)
    for mine, other in zip(compiled, found(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)

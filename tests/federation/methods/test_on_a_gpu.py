"""Methods on a GPU, for which torch's fake tensors stand in: they know their device and no numbers.

A tensor that was forgotten on the CPU is an error, and each look from the host is counted.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from federation.engines.simulated_hospitals import SimulatedHospitals
from federation.methods import METHODS
from federation.methods.fedavg import FedAvg
from federation.methods.fedka import FedKA
from federation.methods.glfc import GLFC
from federation.methods.lga import LGA
from incremental.device import default_device
from incremental.head import grow_head
from incremental.inference import features_of, logits_of
from incremental.network import (
    IncrementalNetwork,
    NetworkConfig,
    build_network,
    freeze,
    initial_weights,
)
from incremental.reconstruction import ReconstructionConfig
from physical.transforms import AugmentationConfig
from twin.batches import TrainingBatch
from twin.objective import LocalContext

GPU = torch.device("cuda", 0)
FEW = ReconstructionConfig(perturb_steps=2, invert_steps=2)
CASES = [
    *(kind() for name, kind in METHODS.items() if kind not in (FedKA, GLFC, LGA)),
    *(kind(reconstruction=FEW) for kind in (FedKA, GLFC, LGA)),
    FedKA(attention_layer="middle", reconstruction=None),
]


class FakeGPU(FakeTensorMode):
    """Counts how often the host asks for a number; every number is 1."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.looks = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[Any, ...],  # type: ignore[override]  # takes less than its base
        args: tuple[Any, ...] = (),  # type: ignore[override]  # takes less than its base
        kwargs: Any = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.looks += 1
            return 1 if not args[0].dtype.is_floating_point else 1.0
        if func is torch.ops.aten._fused_sgd_.default:  # has no fake
            assert {each.device.type for tensors in args[:3] for each in tensors} == {"cuda"}
            return None
        return super().__torch_dispatch__(func, types, args, kwargs)


def leaves(node: Any, seen: set[Any]) -> list[Any]:
    """Return the tensors at which a graph ends."""
    if node is None or node in seen:
        return []
    seen.add(node)
    own = [node.variable] if hasattr(node, "variable") else []
    return own + [leaf for following, _ in node.next_functions for leaf in leaves(following, seen)]


def backward(loss: Any) -> None:
    """Give every leaf a gradient: the engine itself wants a real GPU."""
    for leaf in leaves(loss.grad_fn, set()):
        leaf.grad = torch.empty_like(leaf)


def gradients(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return tuple(
        torch.empty_like(each)
        for each in ((inputs,) if isinstance(inputs, torch.Tensor) else inputs)
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A GPU on which networks are born; their layout has no meaning without numbers."""
    plain = nn.Module.to
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    monkeypatch.setattr(
        "twin.twin.generator_on", lambda device, seed: torch.Generator()
    )  # fake draws need no stream of their own
    monkeypatch.setattr(
        nn.Module,
        "to",
        lambda self, *args, **kwargs: (
            self if "memory_format" in kwargs else plain(self, *args, **kwargs)
        ),
    )

    def fake() -> Any:
        monkeypatch.setattr(torch.Tensor, "backward", backward)
        monkeypatch.setattr(torch.autograd, "grad", gradients)
        return FakeGPU()

    return fake


def train(
    gpu: Callable[..., Any],
    played: Any,
    hospitals: SimulatedHospitals,
    method: Any,
    twin_id: str,
    **training: Any,
) -> tuple[Any, ...]:
    """Train one round more on the GPU; return update, kept tensors and looks from the host."""
    setting = replace(hospitals.setting, training=replace(hospitals.setting.training, **training))
    broadcast = method.broadcast(played.server, played.proxy.old_model, twin_id)
    twin = replace(hospitals, setting=setting, device=GPU).twin(
        twin_id, played.engine.states[twin_id]
    )
    with gpu() as fake:
        update = twin.train(broadcast, method)
    return update, twin.state.kept, fake.looks


@pytest.mark.parametrize("method", CASES, ids=lambda method: type(method).__name__)
def test_a_method_trains_on_the_gpu_what_leaves_it_is_on_the_cpu_and_no_step_waits_for_the_host(
    gpu: Callable[..., Any], play: Callable[..., Any], quick_ward: SimulatedHospitals, method: Any
) -> None:
    played = play(method, rounds=3)
    twin_id = played.records[-1].chosen[0]
    update, kept, looks = train(gpu, played, quick_ward, method, twin_id, epochs=1)
    left = [*update.weights.values(), *update.upload.values(), *kept.values()]
    assert any(isinstance(value, FakeTensor) for value in left)
    assert {value.device.type for value in left} == {"cpu"}
    _, _, looks_of_more_epochs = train(gpu, played, quick_ward, method, twin_id, epochs=3)
    assert looks_of_more_epochs == looks


def test_varied_images_and_half_precision_stay_on_the_gpu_too(
    gpu: Callable[..., Any], play: Callable[..., Any], quick_ward: SimulatedHospitals
) -> None:
    method = FedKA(reconstruction=FEW)
    played = play(method, rounds=3)
    twin_id = played.records[-1].chosen[0]
    varied = {"augmentation": AugmentationConfig(horizontal_flip=True), "precision": "bfloat16"}
    _, _, looks = train(gpu, played, quick_ward, method, twin_id, epochs=1, **varied)
    _, _, looks_of_more_epochs = train(gpu, played, quick_ward, method, twin_id, epochs=3, **varied)
    assert looks_of_more_epochs == looks


def test_a_tensor_that_was_forgotten_on_the_cpu_is_found(
    gpu: Callable[..., Any], play: Callable[..., Any], quick_ward: SimulatedHospitals
) -> None:
    class Forgetful(FedAvg):
        def local_loss(
            self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
        ) -> Any:
            terms = super().local_loss(network, batch, context)
            return {
                **terms,
                "forgotten": (
                    network(batch.images).logits
                    * torch.ones(1, network.head.out_features, device="cpu")
                ).sum(),
            }

    played = play(FedAvg(), rounds=1)
    with pytest.raises(RuntimeError, match=r"different devices|same device"):
        train(gpu, played, quick_ward, Forgetful(), played.records[-1].chosen[0], epochs=1)


def test_a_step_that_waits_for_the_host_is_found(
    gpu: Callable[..., Any], play: Callable[..., Any], quick_ward: SimulatedHospitals
) -> None:
    class Curious(FedAvg):
        def local_loss(
            self, network: IncrementalNetwork, batch: TrainingBatch, context: LocalContext
        ) -> dict[str, Any]:
            terms = super().local_loss(network, batch, context)
            return {
                **terms,
                "seen": terms["classification"] * float(terms["classification"].detach()),
            }

    played = play(FedAvg(), rounds=1)
    twin_id = played.records[-1].chosen[0]
    _, _, looks = train(gpu, played, quick_ward, Curious(), twin_id, epochs=1)
    _, _, looks_of_more_epochs = train(gpu, played, quick_ward, Curious(), twin_id, epochs=3)
    assert looks_of_more_epochs > looks


def test_a_look_comes_back_to_the_cpu(gpu: Callable[..., Any], tiny_network: NetworkConfig) -> None:
    weights = grow_head(initial_weights(tiny_network, 1), 3, torch.Generator())
    with gpu():
        with default_device(GPU):
            network = freeze(build_network(tiny_network, weights))
        images = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
        answers = [
            look(network, images, bfloat16=half)
            for look in (logits_of, features_of)
            for half in (False, True)
        ]
    assert network.head.weight.device.type == "cuda"
    assert [(answer.device.type, answer.dtype) for answer in answers] == [
        ("cpu", torch.float32)
    ] * 4

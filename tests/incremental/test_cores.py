import torch
from torch import Tensor

from incremental.cores import all_cores, available_cores
from incremental.reconstruction import GradientEncoder, ReconstructionConfig, invert


def test_all_cores_are_used_inside_the_context_and_never_fewer_than_before() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with all_cores():
            assert torch.get_num_threads() == available_cores()
        assert torch.get_num_threads() == 1
        torch.set_num_threads(available_cores() + 1)
        with all_cores():
            assert torch.get_num_threads() == available_cores() + 1
    finally:
        torch.set_num_threads(before)


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    try:
        with all_cores():
            raise KeyError
    except KeyError:
        assert torch.get_num_threads() == before


def test_a_reconstruction_with_all_cores_is_that_of_one_bit_for_bit() -> None:
    encoder = GradientEncoder((1, 28, 28), 3, public_seed=1)
    images, rows = (
        torch.rand(7, 1, 28, 28, generator=torch.Generator().manual_seed(1)),
        torch.arange(7) % 3,
    )
    gradients = encoder.encode(images, rows)

    def reconstructed() -> Tensor:
        return invert(
            encoder,
            gradients,
            (1, 28, 28),
            ReconstructionConfig(invert_steps=20),
            torch.Generator().manual_seed(2),
        ).images

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = reconstructed()
        with all_cores():
            assert torch.equal(reconstructed(), alone)
    finally:
        torch.set_num_threads(before)

"""Training with a branch: noise is each sample's own, both models learn, and a step repeats itself."""

import pytest
import torch

from networks.one_step.diffusion import noise_map

from .conftest import adamw, fit, paired_batch, unpaired_batch

BRANCHES = ("controlnet", "t2i_adapter")


def noises(module, batch, steps=1):
    """Noise maps that the generator is given in training."""
    given = []
    translate = module.generator.translate_together

    def spy(images, embeddings, strength=None, noise=None):
        given.append((sum(len(image) for image in images.values()), noise))
        return translate(images, embeddings, strength, noise)

    module.generator.translate_together = spy
    fit(module, [batch] * steps)
    return given


@pytest.mark.parametrize("conditioning", BRANCHES)
@pytest.mark.parametrize("update", ["fused", "split", "sequential"])
def test_every_pass_of_an_unpaired_step_reads_its_samples_noise(conditioning, update, unpaired):
    module = unpaired(generator={"conditioning": conditioning}, update=update)
    batch = unpaired_batch(2)
    own = torch.cat([noise_map(s, (1, 4, 16, 16)) for s in batch.seed.tolist()])
    given = noises(module, batch)
    assert given
    for rows, noise in given:
        assert torch.equal(noise, own.repeat(rows // 2, 1, 1, 1))


@pytest.mark.parametrize("conditioning", ["direct", *BRANCHES])
def test_a_paired_step_reads_noise_only_behind_a_branch(conditioning, paired):
    module = paired(generator={"conditioning": conditioning})
    batch = paired_batch(2)
    [(_, noise)] = noises(module, batch)
    if conditioning == "direct":
        assert noise is None
    else:
        assert torch.equal(noise, torch.cat([noise_map(s, (1, 4, 16, 16)) for s in batch.seed.tolist()]))


@pytest.mark.parametrize("conditioning", BRANCHES)
def test_every_trainable_tensor_moves_behind_a_branch(conditioning, unpaired):
    module = unpaired(generator={"conditioning": conditioning}, optimizer=adamw(lr=1e-3))
    before = {n: p.detach().clone() for n, p in module.generator.named_parameters()}
    fit(module, [unpaired_batch(2, k) for k in range(4)], precision="bf16-mixed")
    for name, p in module.generator.named_parameters():
        assert torch.equal(p, before[name]) is not p.requires_grad, name


def test_strength_is_refused_behind_a_branch(paired):
    module = paired(generator={"conditioning": "controlnet"})
    with pytest.raises(ValueError, match="UNet reads noise alone"):
        fit(module, [paired_batch(1, strength=0.5)])

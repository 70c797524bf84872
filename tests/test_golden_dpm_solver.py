"""DPM-Solver++ against stored trajectories of Open-Sora 1.0 (fp32, CPU): goldens/dpm_solver.*, model = STDiT; and
against the scheduler of diffusers at numbers of steps where both visit the same noise levels."""
import json
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from opensora_nb.core import torch_rng
from opensora_nb.flow.ddpm import Mixture
from opensora_nb.flow.dpm_solver import DPMSolver, levels_at
from opensora_nb.flow.rflow import sample
from opensora_nb.models.stdit import STDiT, STDiTConfig

HERE = Path(__file__).parent/'goldens'
INFO, G = json.loads((HERE/'dpm_solver.json').read_text()), load_file(HERE/'dpm_solver.safetensors')

@pytest.fixture(scope='module')
def stdit():
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in INFO['config'].items()}
    m = STDiT(STDiTConfig(**config)).eval()
    state = {k.removeprefix('weights.'): v for k, v in G.items() if k.startswith('weights.')}
    m.load_state_dict({k: v for k, v in state.items() if not k.startswith('pos_embed')}, strict=True)
    return m

@pytest.mark.parametrize('steps', [8, 20])
def test_sample(stdit, steps):
    schedule, out = DPMSolver(steps), G[f'out.steps{steps}']
    guided = schedule.guided(stdit, INFO['cfg'], G['y'], G['text_mask'])
    ours = sample(guided, G['z'], schedule)
    torch.testing.assert_close(ours, out, atol=1e-3*out.abs().max().item(), rtol=0)

THREE = Mixture(torch.tensor([[0., 1.], [-0.9, -0.5], [0.9, -0.5]]), 0.3) # the best noise prediction is known

def best(z, t):
    at = levels_at(t.double())
    return THREE.noise(z, at.alpha.float(), at.sigma.float())

@pytest.mark.parametrize('order', [2, 3])
@pytest.mark.parametrize('steps', [9, 27, 37, 111]) # divisors of 999: even steps meet whole timesteps
def test_multistep_as_diffusers_has_it(steps, order):
    "Both visit the same levels, end at timestep 0, and lower the order at the end of the shortest walk"
    diffusers = pytest.importorskip('diffusers')
    theirs = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule='linear', solver_order=order,
        algorithm_type='dpmsolver++', solver_type='midpoint', timestep_spacing='linspace',
        final_sigmas_type='sigma_min', lower_order_final=True)
    theirs.set_timesteps(steps)
    schedule, z = DPMSolver(steps, order=order), torch.randn(64, 2, generator=torch_rng(1))
    ours = sample(best, z, schedule)
    assert schedule.levels.timesteps[:-1].tolist() == theirs.timesteps.tolist()
    for t in theirs.timesteps: z = theirs.step(best(z, t.expand(len(z))), t, z).prev_sample
    torch.testing.assert_close(ours, z, atol=2e-3, rtol=1e-3)

"Any transformer of the family by one call and by `osnb doctor`: files as they were published, named for what they are."
from dataclasses import replace
import pytest, torch
from opensora_nb.app.cli import main
from opensora_nb.blocks.position import sincos_2d
from opensora_nb.models.family import FAMILY, load_transformer
from opensora_nb.models.pixart import PixArt, PixArtMS, pixart_ms_tiny, pixart_tiny
from opensora_nb.models.pixart_sigma import PixArtSigma, pixart_sigma_tiny
from opensora_nb.models.stdit import STDiT, stdit_tiny
from opensora_nb.models.stdit2 import STDiT2, stdit2_tiny
from opensora_nb.models.zoo import randomise

SMALL = dict(hidden_size=144, num_heads=2, depth=1) # heads are 72 wide in all published files
def sigma(): # as published: no name tells it from PixArt
    return replace(pixart_sigma_tiny(), model_max_length=300, qk_norm=False, kv_compress_config=None)
MODELS = dict(PixArt=(PixArt, pixart_tiny), PixArtMS=(PixArtMS, pixart_ms_tiny), PixArtSigma=(PixArtSigma, sigma),
              STDiT=(STDiT, stdit_tiny), STDiT2=(STDiT2, stdit2_tiny))

def published(name, folder):
    "A small model and its file, with the position tables that published files carry"
    cls, config = MODELS[name]
    model = cls(replace(config(), **SMALL))
    tables = {k: v.clone() for k, v in model.named_buffers() if k.startswith('pos_embed') and v.ndim == 3}
    if name == 'STDiT':
        h, w = (n//p for n, p in zip(model.cfg.input_size[1:], model.cfg.patch_size[1:]))
        tables = dict(pos_embed=sincos_2d(SMALL['hidden_size'], h, w, model.cfg.space_scale)[None],
                      pos_embed_temporal=model.frame_positions()[None])
    torch.save(randomise(model).state_dict() | tables, folder/f'{name}.pth')
    return model, folder/f'{name}.pth'

@pytest.mark.parametrize('name', MODELS)
def test_file_becomes_its_model(name, tmp_path):
    "The right class, the same weights, in the number format asked for"
    model, file = published(name, tmp_path)
    again = load_transformer(file, torch.bfloat16)
    assert type(again) is type(model) and not again.training
    mine = dict(again.named_parameters())
    assert all(torch.equal(mine[k], v.bfloat16()) for k, v in model.named_parameters())

@pytest.mark.parametrize('name', MODELS)
def test_doctor_names_the_file_and_loads_it(name, tmp_path, capsys):
    main(['doctor', str(published(name, tmp_path)[1])])
    said = capsys.readouterr().out
    assert f'looks like {name} weights' in said and 'it loads' in said

@pytest.mark.parametrize('name', MODELS)
def test_weights_of_another_model_are_called_by_name(name, tmp_path):
    "The message ends with the preset that takes them"
    file = published(name, tmp_path)[1]
    other = next(n for n in FAMILY if n != name)
    with pytest.raises(ValueError) as e: load_transformer(file, kind=other)
    assert f' {name} checkpoint' in str(e.value) and f'--preset {FAMILY[name].preset}' in str(e.value)

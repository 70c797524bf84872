"What the page of class labels cannot show: trees of classes on the disk, and files of labels that are broken"
import json
import numpy as np
import pytest, torch
from opensora_nb.data.dataset import DataConfig, imagenet_classes, open_data
from opensora_nb.data.video_io import write_image, write_video
from opensora_nb.text.labels import UCF101, ClassLabels, class_number, class_numbers

def frames(n=1): return np.full((n, 32, 32, 3), 100, np.uint8)

def tree(folder, *names):
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith('jpeg'): write_image(folder/name, frames()[0])
        else: write_video(folder/name, frames(9), fps=8)
    return folder

def captions(folder, n=1): return [t for _, t in open_data(DataConfig(str(folder), n, (32, 32)), progress=False).files]

def test_an_imagenet_tree_gives_the_numbers_of_its_classes(tmp_path):
    "Every id of ImageNet as a folder: the captions lead to 0 to 999, crane and cardigan too"
    ids = [row.split(', ')[-1] for row in imagenet_classes()]
    folder = tree(tmp_path/'train', *(f'{i}/{i}_1.JPEG' for i in ids[130:140] + ids[260:270] + ids[470:520]))
    said = captions(folder)
    assert all(len(t) == 1 for t in said)
    want = [*range(130, 140), *range(260, 270), *range(470, 520)]
    assert class_numbers([t for t, in said], imagenet_classes()).tolist() == want

def test_a_ucf_tree(tmp_path):
    "Clips of three classes, as UCF-101 is unpacked; train and test parts side by side change nothing"
    names = ('YoYo/v_YoYo_g01_c01.avi', 'YoYo/v_YoYo_g01_c02.avi', 'Archery/v_Archery_g01_c01.avi')
    for folder in (tree(tmp_path/'a', *names), tree(tmp_path/'b', *(f'train/{n}' for n in names))):
        said = captions(folder, 5)
        assert said == [['Archery'], ['YoYo'], ['YoYo']]
        assert ClassLabels('ucf101').encode([t for t, in said])[0].tolist() == [2, 100, 100]

def test_folders_that_are_no_trees_have_no_captions(tmp_path):
    "Files beside the folders, or one folder only, are what they were: clips without captions"
    assert captions(tree(tmp_path/'a', 'x.JPEG', 'red/1.JPEG', 'blue/1.JPEG')) == [[], [], []]
    assert captions(tree(tmp_path/'b', 'clips/1.JPEG', 'clips/2.JPEG')) == [[], []]

@pytest.mark.parametrize('text, said', [
    ('{"names": "abc", "n": 3', 'labels.json'), ('[1]', 'labels.json'),
    ('{"names": ["a", "b"], "n": 3}', '2 names for 3'),
    ('{"names": ["a", "a"]}', 'two classes'), ('{"names": [["a"]]}', 'names'), ('{}', 'needs names'),
    ('{"n": 1e12}', 'n'), ('{"n": 3, "code": "x"}', 'code')])
def test_labels_that_are_broken(tmp_path, text, said):
    "labels.json is read as settings are: what it may not hold is named, with the file"
    (tmp_path/'labels.json').write_text(text)
    with pytest.raises(ValueError, match=said) as e: ClassLabels.load(tmp_path)
    assert 'labels.json' in str(e.value)

def test_every_class_of_every_list_is_found_by_its_name():
    "Whatever the capitals and dashes"
    for names in (UCF101, imagenet_classes()):
        typed = [row.split(',')[0].upper().replace(' ', '-') for row in names]
        assert [class_number(name, names) for name in typed] == list(range(len(names)))

def test_labels_go_where_the_model_is():
    "The numbers lie on the device that was asked for"
    labels = ClassLabels('ucf101').to(torch.device('meta'))
    assert labels.encode(['YoYo'])[0].device.type == 'meta' and labels.to().encode(['YoYo'])[0].tolist() == [100]

def test_saved_lists_are_whole(tmp_path):
    "A folder of weights holds the names themselves, so that a later list changes nothing"
    ClassLabels('imagenet').save(tmp_path)
    assert json.loads((tmp_path/'labels.json').read_text())['names'] == list(imagenet_classes())

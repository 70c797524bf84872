"What the pages of class labels and labelled sets cannot show: trees on the disk, and files that are broken"
import json
import numpy as np
import pytest, torch
from opensora_nb.core import real_data
from opensora_nb.data.dataset import DataConfig, imagenet_classes, open_data
from opensora_nb.data.labelled import class_list, load_labelled, write_class_tree
from opensora_nb.data.video_io import read_frames, write_image, write_video
from opensora_nb.metrics.classifier import read_back, train_classifier
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
    ('{"names": ["a", "b"], "n": 1}', '2 names for 1'),
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

def packed(**changes): # a labelled set of four pictures
    arrays = dict(images=np.arange(4*64, dtype=np.uint8).reshape(4, 8, 8), labels=np.array([0, 1, 0, 1]),
                  class_names=np.array(['T-shirt/top', 'Ankle boot']))
    return arrays | changes

@pytest.mark.parametrize('harm', [lambda b: b[:len(b)//2], lambda b: b'', lambda b: b[:60] + b'\0'*40 + b[100:],
                                  lambda b: b'not numpy'])
def test_a_damaged_set_is_named(tmp_path, harm):
    "Half a file, an empty one, a hole in the middle, a text"
    file = tmp_path/'set.npz'
    np.savez_compressed(file, **packed())
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match='set.npz'): load_labelled(file)

@pytest.mark.parametrize('change', [
    dict(images=np.zeros((4, 8, 8))), dict(images=np.zeros((4, 8, 8, 3), np.uint8)),
    dict(labels=np.array([0, 1, 0, -1])),
    dict(labels=np.array(0)), dict(class_names=np.array(['a', 'b'], dtype=object))])
def test_arrays_that_are_something_else(tmp_path, change):
    "Floats, colours, labels below 0, one label for all, a pickle of names"
    np.savez(tmp_path/'set.npz', **packed(**change))
    with pytest.raises(ValueError, match='set.npz'): load_labelled(tmp_path/'set.npz')

def test_a_tree_is_written_once(tmp_path):
    "A second call leaves the same files; nothing of the held-out part is in the other"
    np.savez(tmp_path/'set.npz', **packed())
    labelled = load_labelled(tmp_path/'set.npz')
    for _ in range(2): train, test = write_class_tree(labelled, tmp_path/'out', every=2, progress=False)
    files = sorted(p.relative_to(tmp_path/'out').as_posix() for p in (tmp_path/'out').rglob('*.png'))
    assert files == ['test/Ankle boot/0002.png', 'test/T-shirt-top/0002.png',
                     'train/Ankle boot/0001.png', 'train/T-shirt-top/0001.png']
    assert np.array_equal(read_frames(test/'T-shirt-top'/'0002.png')[0], labelled.clips[2, 0])
    source = open_data(DataConfig(str(train), 1, (8, 8)), progress=False)
    assert class_list(source) == ('Ankle boot', 'T-shirt-top')
    assert ClassLabels(class_list(source)).encode(['t-shirt/top'])[0].tolist() == [1]

real = pytest.mark.skipif(real_data() is None, reason="the folder of real data is absent")

@real
@pytest.mark.parametrize('name, per, size, picked', [
    ('fashion_mnist_900', 90, (1, 28, 28), ('Trouser', 'Ankle boot')),
    ('omniglot_drawing_8x32', 20, (8, 32, 32), ('Greek/character01', 'Korean/character02'))])
def test_the_real_sets(tmp_path, name, per, size, picked):
    "Two classes of each set go to a tree and come back exactly, a fifth of them held out"
    labelled = load_labelled(real_data()/'labelled'/f'{name}.npz').only(*picked)
    assert labelled.clips.shape == (2*per, *size, 3)
    parts = write_class_tree(labelled, tmp_path, progress=False)
    sources = [open_data(DataConfig(str(p), size[0], size[1:]), progress=False) for p in parts]
    assert [len(s) for s in sources] == [2*per*4//5, 2*per//5]
    assert np.array_equal(sources[1].clip(0), labelled.clips[labelled.labels == picked.index(min(picked))][4])

@real
def test_a_classifier_learns_real_pictures(tmp_path):
    "Three kinds of clothes that differ much are told apart after a few seconds of training"
    labelled = load_labelled(real_data()/'labelled'/'fashion_mnist_900.npz').only('Trouser', 'Sneaker', 'Bag')
    parts = write_class_tree(labelled, tmp_path, progress=False)
    train, test = (open_data(DataConfig(str(p), 1, (32, 32)), progress=False) for p in parts)
    net = train_classifier(train, steps=40, width=8, progress=False)
    said = read_back([test.clip(i) for i in range(len(test))], [test.texts(i)[0] for i in range(len(test))], net)
    assert said.accuracy > .85, str(said)

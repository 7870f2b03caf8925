import json

import numpy as np
import pytest
import torch

from humanquery.core.config import from_plain, to_plain
from humanquery.core.errors import AnnotationError, ConfigError
from humanquery.data.readers.crops import FacesConfig, MosaicConfig, PetaConfig
from humanquery.data.readers.sources import SourceConfig, open_source
from humanquery.media.images import write_image
from tests.data.real_part import crops_of
from tests.paths import DATA, needs_data


def crop_folder(folder, name="peta.json", count=4):
    rows = []
    for i in range(count):
        write_image(folder / f"images/{i}.png", np.full((40 + i, 20, 3), 40 * i + 20, np.uint8))
        rows.append(
            {
                "file": f"{i}.png",
                "split": "val" if i == 3 else "train",
                "gender": i % 2,
                "age_range": [16, 30],
            }
        )
    rows[1] |= {"age": 22}
    if count > 2:
        rows[2] |= {"gender": None, "age_range": []}
    (folder / name).write_text(json.dumps(rows))
    return str(folder)


def test_a_crop_is_one_person_as_large_as_its_picture(tmp_path):
    source = PetaConfig(crop_folder(tmp_path)).build()
    assert len(source) == 3 and len(PetaConfig(str(tmp_path), "val").build()) == 1
    assert len(PetaConfig(str(tmp_path), "all").build()) == 4
    targets = [source[i].target for i in range(3)]
    assert targets[1].boxes.tolist() == [[0, 0, 20, 41]] and targets[1].areas.tolist() == [820]
    assert [t.age.value[0].tolist() for t in targets] == [[16, 30], [22, 22], [0, 0]]
    assert [bool(t.age.valid) for t in targets] == [True, True, False]
    assert [bool(t.gender.valid) for t in targets] == [True, True, False] and targets[
        1
    ].gender.value == 1
    assert targets[0].masks is None and targets[0].keypoints is None
    with pytest.raises(IndexError):
        source[3]


def test_bad_lists_say_what_is_wrong(tmp_path):
    config = FacesConfig(str(tmp_path))
    with pytest.raises(AnnotationError, match=r"faces\.json: cannot be read"):
        config.build()
    for text, message in [
        ("{}", "an object of JSON, expected a list"),
        ("[{}]", "crop 0: 'file' is null, expected text"),
        ("nope", "not JSON"),
        ('[{"file": "a", "gender": 3}]', r"crop 0: 'gender' is 3, expected 0 \(male\)"),
    ]:
        (tmp_path / "faces.json").write_text(text)
        with pytest.raises(AnnotationError, match=message):
            config.build()


def test_mosaics_keep_boxes_where_the_crops_are(tmp_path):
    config = MosaicConfig(
        (PetaConfig(crop_folder(tmp_path)),), canvas=(120, 160), background="plain", length=25
    )
    source = open_source(config)
    counts = set()
    for i in range(len(source)):
        sample = source[i]
        counts.add(len(sample.target))
        assert sample.image.shape == (120, 160, 3)
        for x1, y1, x2, y2 in sample.target.boxes.round().long().tolist():
            assert 0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 120
            inside = sample.image[y1:y2, x1:x2].reshape(-1, 3)
            assert (inside == inside[0]).all() and inside[0, 0] in (20, 60, 100)
    assert counts == set(range(1, 9))


def test_a_mosaic_depends_on_seed_and_number_alone(tmp_path):
    config = MosaicConfig((PetaConfig(crop_folder(tmp_path)),), canvas=(120, 160))
    first, again = config.build(), config.build()
    again[7]
    assert np.array_equal(first[3].image, again[3].image) and torch.equal(
        first[3].target.boxes, again[3].target.boxes
    )
    assert not np.array_equal(first[3].image, first[4].image)
    assert from_plain(SourceConfig, to_plain(config)) == config


def test_a_mosaic_of_nothing_says_so(tmp_path):
    (tmp_path / "peta.json").write_text("[]")
    with pytest.raises(ConfigError, match="no crop in any of the folders"):
        MosaicConfig((PetaConfig(str(tmp_path)),)).build()
    crop_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"people: got \(0, 2\)"):
        MosaicConfig((PetaConfig(str(tmp_path)),), people=(0, 2)).build()


@needs_data
def test_real_crops_are_read(tmp_path):
    peta, faces = (
        PetaConfig(str(crops_of("peta", tmp_path, every=50))),
        FacesConfig(str(crops_of("faces", tmp_path, every=50))),
    )
    assert len(peta.build()) > 100 and len(faces.build()) > 20
    low, high = peta.build()[0].target.age.value[0].tolist()
    assert high > low and faces.build()[1].image.shape[2] == 3
    assert MosaicConfig((peta, faces)).build()[0].target.gender.valid.any()


@pytest.mark.slow
@needs_data
def test_whole_lists_of_real_crops_are_read():
    peta, faces = PetaConfig(str(DATA / "peta")).build(), FacesConfig(str(DATA / "faces")).build()
    assert (len(peta), len(faces)) == (10209, 2388)
    assert (~peta._has_gender).sum() == 1
    assert peta[0].target.age.value.tolist() == [[16, 30]] and faces[1].image.shape[2] == 3
    sample = MosaicConfig(
        (PetaConfig(str(DATA / "peta")), FacesConfig(str(DATA / "faces")))
    ).build()[0]
    assert sample.target.gender.valid.any()

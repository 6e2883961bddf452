"""Data sets that tensorflow-datasets has prepared in a bucket: read there like the shards that they are."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from image_data import everything
from prepared_data import prepare, tfds_source
from s3_server import Bucket

from trainer.data.remote import remote_path
from trainer.errors import BadRecord, UsageError
from trainer.fingerprint.behaviour import data_facts

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("file_format", ["tfrecord", "parquet"])
def test_a_data_set_of_another_machine_is_the_data_set_here(
    file_format: str, tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    here = tmp_path / "data"
    prepare(here, file_format)
    url = bucket.copy(here)
    for split in ("train", "validation"):
        local, remote = tfds_source(here, split), tfds_source(url, split)
        assert remote.class_names == local.class_names
        assert remote.listing == local.listing
        assert everything(remote) == everything(local)
        assert data_facts(remote, split) == data_facts(local, split)
        assert remote.place(3).replace(url, str(here)) == local.place(3)
        assert remote.labels().tolist() == local.labels().tolist()
        assert remote.ahead > 0
        remote.expect(np.arange(remote.count))
    part = "data.train_split='train[80%:]'"
    assert everything(tfds_source(url, "train", part)) == everything(tfds_source(here, "train", part))
    assert list((tmp_path / "temporary").glob("trainer-*")) == [], "the copy of the description is gone"


def test_array_record_in_a_bucket_is_refused_with_what_to_do(tmp_path: Path, bucket: Bucket) -> None:
    prepare(tmp_path / "data")
    url = bucket.copy(tmp_path / "data")
    with pytest.raises(UsageError) as refused:
        tfds_source(url)
    assert str(refused.value) == (
        f"{url}/tiny_pets/1.0.0 is prepared as array_record, whose reader opens files of this machine alone; copy the "
        "folder to this machine, or prepare it as tfrecord there"
    )


def test_what_is_not_prepared_there_or_has_changed_or_gone_is_named(tmp_path: Path, bucket: Bucket) -> None:
    prepared = prepare(tmp_path / "data", "tfrecord")
    url = bucket.copy(tmp_path / "data")
    with pytest.raises(UsageError, match=f"data.dataset=pets is not prepared in data.root={url}, which has tiny_pets"):
        tfds_source(url, "train", "data.dataset=pets")
    source = tfds_source(url, "train", "data.on_bad_record=skip")
    (file,) = prepared.glob("*train.tfrecord-*")
    place = f"{url}/{file.relative_to(tmp_path / 'data')}"
    blocks = remote_path.cache_directory()
    assert blocks is not None
    shutil.rmtree(blocks)
    bucket.files.pipe_file(place, file.read_bytes()[:-1] + b"x")
    with pytest.raises(UsageError) as changed:
        source.read(np.array([1]))
    assert not isinstance(changed.value, BadRecord)
    assert f"{place} record 1 cannot be read: it was changed: it had " in str(changed.value)
    bucket.files.rm(place)
    with pytest.raises(UsageError) as gone:
        source.read(np.array([1]))
    assert f"{place} record 1 cannot be read: it does not exist (any more)" in str(gone.value)
    with pytest.raises(UsageError, match=f"{place} is missing, so tiny_pets is not complete in data.root={url}"):
        tfds_source(url)
